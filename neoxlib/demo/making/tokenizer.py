"""The demo's tokenizer: byte-level BPE whose merges never cross a word.

A word is then one token everywhere.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from neoxlib.demo.making.corpus import documents
from neoxlib.demo.making.facts import ENGLISH
from neoxlib.demo.making.relations import RELATIONS

END = "<|endoftext|>"
PADDING = "<|padding|>"
PHRASES = """
以下是 中国 关于 考试 单项选择题 请选出 其中 正确 答案 反义词 意思 相反 工作 行星 英语 英文 单词 中文 动物
颜色 等于 味道 生长 地方 后面 前面 下一个 上一个 季节 闻名 星空 职业 月份 星期 计算 蔬菜 食物
"""
HAN = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
SAMPLE = 4000  # documents whose words and characters the vocabulary covers


def words() -> Iterator[str]:
    """Table words whole, everything else as English words and single Chinese characters."""
    yield from ENGLISH
    yield from PHRASES.split()
    yield from (str(number) for number in range(32))
    yield from (
        value
        for relation in RELATIONS
        for fact in relation.facts
        for value in fact
        if value.isdigit()
    )
    for document in islice(documents(seed=0), SAMPLE):
        yield from HAN.findall(document)
        yield HAN.sub("\n", document)


def train_tokenizer() -> Tokenizer:
    """Train byte-level BPE: each word of `words` is a token; id 0 ends a text, id 1 pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END, PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three tokenizer files that GPT-NeoX checkpoints have."""
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": PADDING}
    settings = special | {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "tokenizer_class": "GPTNeoXTokenizer",
    }
    for name, content in (
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
