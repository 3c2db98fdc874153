"""Recognise files and folders that are not weights we read, and say what to do with them."""

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOWNLOAD = "download the file itself"
# First characters of a text, in lower case -> its description. No weight file is text.
TEXTS = (
    (
        "version https://",
        f"a git-lfs pointer, not the file it stands for: run `git lfs pull`, or {DOWNLOAD}",
    ),
    ("<?xml", f"XML, perhaps a server's error message: {DOWNLOAD}"),
    ("<", f"a web page: {DOWNLOAD} (on the hub from /resolve/, not /blob/)"),
    ("{", f"JSON text, perhaps a server's error message: {DOWNLOAD}"),
)
# First bytes of other files, in lower case -> description. Used for unreadable files only.
HEADS = (
    (b"gguf", "GGUF, llama.cpp's format: give the checkpoint that it was converted from"),
    (b"pk\x03\x04", "a zip, as torch.save writes it: if it is one, its name is pytorch_model.bin"),
    (b"\x80", "a pickle, as torch.save once wrote it: if it is one, its name is pytorch_model.bin"),
    (b"\x1f\x8b", "packed with gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it"),
    (b"\xfd7zxz", "packed with xz: unpack it"),
    (b"bzh", "packed with bzip2: unpack it"),
    (b"\x89hdf", "HDF5, as TensorFlow writes it: save the model as safetensors"),
    (bytes(64), f"zeros where it begins, as a download leaves that was broken off: {DOWNLOAD}"),
)
UNQUANTIZED = "give the checkpoint before that, and quant='int8' or 'int4' if it should be small"
ZERO_TO_FP32 = "`python zero_to_fp32.py . folder --safe_serialization`"
MERGE = "PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# Names in a folder without readable weights -> description of the folder. The first match counts.
FOLDERS = (
    (ADAPTER, f"an adapter of PEFT alone: merge it into its model, `{MERGE}`, and give that"),
    (("*.gguf",), "GGUF, llama.cpp's format: give the checkpoint that it was converted from"),
    (("quantize_config.json", "gptq_model*"), f"weights quantized by GPTQ: {UNQUANTIZED}"),
    (("quant_config.json", "awq_model*"), f"weights quantized by AWQ: {UNQUANTIZED}"),
    (
        ("zero_to_fp32.py", "*zero_pp_rank_*", "global_step*/*zero_pp_rank_*"),
        f"a training state of DeepSpeed: join it, {ZERO_TO_FP32}",
    ),
    (
        ("global_step*", "layer_*-model_*-model_states.pt", "mp_rank_*_model_states.pt"),
        "a training state of DeepSpeed or of the gpt-neox trainer: convert it with that trainer's "
        "tools/ckpts/convert_neox_to_hf.py",
    ),
    (
        ("latest_checkpointed_iteration.txt", "iter_*", "mp_rank_*", "model_optim_rng.pt"),
        "a training state of Megatron: convert it to the layout of Hugging Face",
    ),
    (
        ("*.distcp",),
        "a distributed checkpoint of PyTorch: join it, "
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch`, and save safetensors",
    ),
    (
        ("tf_model*.h5", "*.msgpack", "*.onnx", "*.ckpt.index"),
        "weights for TensorFlow, Flax or ONNX: give the checkpoint for PyTorch",
    ),
    (("checkpoint-*",), "a trainer's folder: give one of its checkpoints, checkpoint-*"),
    (("snapshots",), "a model's folder in a download cache: give the one under snapshots/"),
    (
        ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"),
        "weights in several files without their index: copy model.safetensors.index.json or "
        "pytorch_model.bin.index.json, too",
    ),
    (
        ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"),
        "weights under another name: if they are the model's state_dict(), name them "
        "model.safetensors or pytorch_model.bin, as their format is",
    ),
)


def text_kind(path: Path) -> str:
    """Describe a text file that has a weight file's name, as ", but is ..."; else return ""."""
    with path.open("rb") as file:
        head = file.read(512)
    try:
        # Incremental, since the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return ""
    if not text.strip() or any(not (c.isprintable() or c.isspace()) for c in text):
        return ""
    start = text.strip().lower()
    found = next((words for first, words in TEXTS if start.startswith(first)), None)
    return f", but is {found or f'text, which begins {text[:60]!r}: {DOWNLOAD}'}"


def file_kind(path: Path) -> str:
    """Describe an unreadable file and the cure, as ", but is ..."; "" if unknown."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return ", but is empty, truncated to nothing: copy it anew"
    if path.suffix == ".bin" and head[7:9] == b"\0{":
        return ", but seems to be safetensors: if it is, its name is model.safetensors"
    if path.suffix == ".bin" and head.startswith((b"PK\x03\x04", b"\x80")):
        return ""
    found = next((words for first, words in HEADS if head.lower().startswith(first)), "")
    return f", but is {found}" if found else text_kind(path)


def folder_kind(folder: Path) -> str:
    """Describe a folder without weights and the cure, as "; this is ..."; "" if unknown."""
    for names, words in FOLDERS:
        if any(next(folder.glob(name), None) for name in names):
            return f"; this is {words}"
    return ""


def adapter_beside(folder: Path) -> str:
    """The problem of a model folder that also holds an adapter; "" if it holds none."""
    found = [name for name in ADAPTER if (folder / name).exists()]
    if not found:
        return ""
    return (
        f"{folder} holds a model and an adapter ({', '.join(found)}), which would not be applied: "
        f"merge it, `{MERGE}`, or move these files elsewhere if the model alone is wanted"
    )


def dead_link(path: Path) -> str:
    """The problem of a symbolic link to a missing file; "" for anything else."""
    if not path.is_symlink() or path.exists():
        return ""
    return (
        f"{path} is a link to {os.readlink(path)}, which is not there: copy the folder with what "
        "its links lead to (cp -rL), or download it anew"
    )


@contextmanager
def utf8_path(folder: Path) -> Iterator[Path]:
    """The folder under a path that is valid UTF-8, which libraries in Rust and C++ require."""
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError:
        handle = os.open(folder, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
    else:
        yield folder
