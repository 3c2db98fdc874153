"""The requirements of the operators that neoxlib calls on NPUs, in words, with their sources."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """The requirements on an operator that concern GPT-NeoX, by its page and by its tiling."""

    families: tuple[str, ...]
    asks: str
    tiling: str = ""


PAGES: dict[str, Page] = {
    "npu_fused_infer_attention_score": Page(
        ("A2", "A3"),
        "float16 or bfloat16, contiguous; head size at most 512; at most 256 heads; mask bool, "
        "True is left out, (B, 1, Q_S, KV_S); no row masked in full; one length may be for all "
        "rows; sparse_mode 3: a mask (2048, 2048), True above the diagonal, and the last query "
        "sees all keys of its row's length",
        "Q_S above 1: head size a multiple of 16 (fused_infer_attention_score_tiling.cpp:672 at "
        "c29bc106), mask of Q_S or more by KV_S or more (prompt_flash_attention_tiling.cpp:2492); "
        "Q_S 1: no mask, or one for every row of the batch "
        "(incre_flash_attention_tiling_check.cpp:1458)",
    ),
    "npu_prompt_flash_attention": Page(
        ("A2", "A3", "310P"),
        "310P: float16, B at most 128, S at most 65535, no lengths, sparse_mode 0, next_tokens 0 "
        "or 2147483647; 0 drops keys right of the upper left diagonal",
        "310P: a mask only for Q_S = KV_S, a multiple of 16 (prompt_flash_attention_tiling.cpp:"
        "4291 at c29bc106), of 128 by aclnnPromptFlashAttentionV3.md:510 at 3a280bcc; adds -10000 "
        "where the mask is True, so all keys and values must be numbers "
        "(prompt_flash_attention_s1s2_bns1_x310_base.h:532)",
    ),
    "npu_incre_flash_attention": Page(
        ("A2", "310P"),
        "one query a row; inner_precise 0 is the precise form and not the default; 310P: float16, "
        "B at most 256, S at most 65536",
        "310P: head size a multiple of 16 (incre_flash_attention_tiling_check.cpp:395 at "
        "c29bc106); mask for every row, of the longest length or more (:1458, :1467)",
    ),
    "npu_rotary_mul": Page(
        ("A2", "A3"),
        "without jit: D even and below 896, B and N below 1000, in BNSD D best a multiple of 32 "
        "bytes, which 24 of float16 is not; with jit, the default of a 310P, D is 128 only",
    ),
    "npu_gelu": Page(
        ("A2", "310P", "910A"),
        "bfloat16 on A2 only; PyTorch's own gelu is the tanh form on NPUs, whatever is asked",
    ),
    "npu_add_layer_norm": Page(
        ("A2", "A3", "310P"),
        "no page in op-plugin; aclnnAddLayerNorm's in ops-nn e5c3fa93: all of one dtype, on 310P "
        "not bfloat16 and 32 bytes or more a row; the sum is given back if it is asked for",
    ),
    "npu_scatter_nd_update_": Page(
        ("A2", "A3"),
        "indices int32 or int64, the last dimension at most input's number of dimensions; updates "
        "of input's dtype; 310P is listed, but not on aclnnScatterNdUpdate's page",
    ),
    "npu_weight_quant_batchmatmul": Page(
        ("A2", "A3", "310P"),
        "x (M, K), weight (K, N), which may be a transposed view, as scale may; K and N at most "
        "65535; int8, on A2 and A3 also int4, eight to an int32; groups a multiple of 32, at most "
        "K - 1; scale of x's "
        "dtype; bias float32 with bfloat16, else float16; NZ in graph mode only",
    ),
    "npu_format_cast": Page(
        ("310P",), "its matmul takes NZ, and would convert a weight anew at each use"
    ),
}
