"""Token ids in, tokens out: sampling, decoding, scoring, and the checks of both."""
