"""Names in weight files, and limits of the files. Imports no torch, as preflight.py must not."""

import re

EMBED = "gpt_neox.embed_in.weight"
HEAD = "embed_out.weight"
HEADS = (HEAD, "lm_head.weight")  # the second since transformers 5
# Tables that older transformers saved beside the weights, in any dtype; the model computes its own.
SKIPPED = re.compile(r"(^|\.)(attention\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
# The dtypes that weights are stored in: safetensors' code -> torch's name.
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
MAX_HEADER = 100_000_000  # bytes of a safetensors header; the format's own limit
