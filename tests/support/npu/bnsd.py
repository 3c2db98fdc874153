"""Sizes of an attention call in layout BNSD: batch, heads, sequence, head size."""

from types import SimpleNamespace


def batch(call: SimpleNamespace) -> int:
    """Sequences of the query."""
    return call.query.shape[0]


def heads(call: SimpleNamespace) -> int:
    """Heads of the query."""
    return call.query.shape[1]


def rows(call: SimpleNamespace) -> int:
    """Queries a sequence, Q_S."""
    return call.query.shape[2]


def width(call: SimpleNamespace) -> int:
    """Head size, D."""
    return call.query.shape[3]


def keys(call: SimpleNamespace) -> int:
    """Slots for keys a sequence, KV_S."""
    return call.key.shape[2]


def widths_agree(call: SimpleNamespace) -> bool:
    """Whether query, key and value have one head size."""
    return call.query.shape[3] == call.key.shape[3] == call.value.shape[3]


def lengths_suit(call: SimpleNamespace) -> bool:
    """Whether there is no list of lengths, one length for all, or one for each sequence."""
    return not call.lengths or len(call.lengths) == 1 or len(call.lengths) >= batch(call)


def lengths_within(call: SimpleNamespace) -> bool:
    """Whether each length is from 0 to the slots for keys."""
    return all(0 <= length <= keys(call) for length in call.lengths or ())
