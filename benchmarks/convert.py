"""A checkpoint in the formats of the peers, made at first use.

GGUF is for llama.cpp, a model folder for CTranslate2.
"""

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Names in GGUF of a block's tensors.
BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
TRUNK = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
}
QUANTIZED = {"bf16": 32, "q8_0": 7, "q4_0": 2}  # llama.h: enum llama_ftype


def gguf_file(model_dir: Path, kind: str) -> Path:
    """The checkpoint as GGUF: "f32", or that turned into one of QUANTIZED by llama.cpp itself."""
    path = model_dir / f"{kind}.gguf"
    if path.exists():
        return path
    unfinished = path.with_suffix(".tmp")
    if kind == "f32":
        _write_gguf(model_dir, unfinished)
    else:
        _quantize(gguf_file(model_dir, "f32"), unfinished, QUANTIZED[kind])
    unfinished.rename(path)
    return path


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a checkpoint's tensor; KeyError if it has none."""
    stem, _, kind = name.rpartition(".")
    if stem in TRUNK:
        return f"{TRUNK[stem]}.{kind}"
    number, _, part = stem.removeprefix("gpt_neox.layers.").partition(".")
    return f"blk.{int(number)}.{BLOCK[part]}.{kind}"


def _write_gguf(model_dir: Path, path: Path) -> None:
    import gguf

    config = json.loads((model_dir / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gptneox")
    _describe(writer, config)
    for name, values in _tensors(model_dir, config["num_attention_heads"]):
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")  # ids in, ids out
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(int(config["rotary_pct"] * (hidden // heads)))
    writer.add_rope_freq_base(config["rotary_emb_base"])
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_parallel_residual(config["use_parallel_residual"])


def _tensors(model_dir: Path, heads: int) -> Iterator[tuple[str, Any]]:
    """Name and float32 values of each tensor; llama.cpp wants all q, then all k, then all v."""
    from safetensors import safe_open

    with safe_open(model_dir / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            values = file.get_tensor(name)
            if "query_key_value" in name:  # [heads * 3 * head_dim, ...]
                values = (
                    values.reshape(heads, 3, -1, *values.shape[1:])
                    .swapaxes(0, 1)
                    .reshape(values.shape)
                )
            yield name, values


def _quantize(source: Path, path: Path, ftype: int) -> None:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.nthread = 2
    if llama_cpp.llama_model_quantize(
        str(source).encode(), str(path).encode(), ctypes.byref(parameters)
    ):
        raise RuntimeError(f"llama.cpp could not turn {source.name} into {path.name}")


def gguf_bytes(path: Path) -> int:
    """Bytes of weights read for a token: all but the embedding, of which it is a row."""
    import gguf

    return sum(
        int(t.n_bytes) for t in gguf.GGUFReader(path).tensors if not t.name.startswith("token_embd")
    )


def ctranslate2_folder(model_dir: Path, kind: str) -> Path:
    """The checkpoint as CTranslate2 has it, its weights kept as `kind`."""
    folder = model_dir / f"ctranslate2-{kind}"
    if (folder / "model.bin").exists():
        return folder
    from ctranslate2.converters.transformers import GPTNeoXLoader
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(model_dir, dtype="float32")
    loader = GPTNeoXLoader()
    config = json.loads((model_dir / "config.json").read_text())
    # Its loader knows the names of transformers 4.
    model.config.rotary_pct = config["rotary_pct"]
    model.embed_out = model.lm_head
    spec = loader.get_model_spec(model)
    spec.register_vocabulary([f"t{n}" for n in range(config["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "t0"
    spec.validate()
    spec.optimize(quantization=kind)
    folder.mkdir(exist_ok=True)
    spec.save(str(folder))
    return folder
