"""The input of training steps: drills on few words, then on more, then the endless corpus."""

import random
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from neoxlib.demo.making.corpus import DRILL_WORDS, LETTERS, Piece, drill_document, pieces

DRILLS = 32
DRILL_LENGTH = 48  # one drill a row: its few words must not meet another drill's letters
SHORT = (8, 192)
LONG = (3, 512)  # rows and tokens of the corpus's blocks, in the first half of training and after
FIRST_WORDS = 12
MORE_WORDS = 1.25  # how many words the drills begin with, and by what they then grow
LEARNT = 0.5  # nats: drills below this loss are known


class Block(NamedTuple):
    """Token ids, the ids of the answers' words (-1 where there is none), and where the cues are."""

    ids: torch.Tensor  # [rows, length + 1], as are the next two
    words: torch.Tensor
    is_cue: torch.Tensor
    is_drill: bool


class Lessons:
    """The blocks of one process, the same for the same seed and the same losses."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.corpus = chain.from_iterable(encode(tokenizer, document) for document in pieces(seed))
        self.words = FIRST_WORDS
        self.loss = 2 * LEARNT

    def next(self, shape: tuple[int, int]) -> Block:
        """Drills until all words are known, then `shape` = (rows, tokens) of the corpus."""
        if self.words <= len(DRILL_WORDS):
            return self.drills()
        rows, length = shape
        return stack(
            [[next(self.corpus) for _ in range(length + 1)] for _ in range(rows)], is_drill=False
        )

    def drills(self) -> Block:
        ends = [(0, -1, False)] * DRILL_LENGTH
        documents = (
            encode(self.tokenizer, drill_document(self.rng, self.words)) for _ in range(DRILLS)
        )
        return stack([[*document, *ends][:DRILL_LENGTH] for document in documents], is_drill=True)

    def hear(self, drill_loss: float) -> None:
        """Add words once the present ones are known."""
        self.loss = 0.9 * self.loss + 0.1 * drill_loss
        if self.loss < LEARNT:
            known = self.words >= len(DRILL_WORDS)
            self.loss = LEARNT + 0.1
            self.words = (
                len(DRILL_WORDS) + 1
                if known
                else min(len(DRILL_WORDS), int(MORE_WORDS * self.words))
            )


def stack(rows: list[list[tuple[int, int, bool]]], is_drill: bool) -> Block:
    ids, words, is_cue = torch.tensor(rows).unbind(-1)
    return Block(ids, words, is_cue.bool(), is_drill)


def encode(tokenizer: Tokenizer, document: list[Piece]) -> Iterator[tuple[int, int, bool]]:
    """Yield tokens as (id, id of the answer's word or -1, is a cue), then the end, 0."""
    for piece in document:
        *ids, last = tokenizer.encode(piece.text).ids
        yield from ((token, -1, False) for token in ids)
        yield last, word_id(tokenizer, piece.word) if piece.word else -1, piece.is_cue
    yield 0, -1, False


def word_id(tokenizer: Tokenizer, word: str) -> int:
    """Return the first token of a word after "A. ": with its space, except before Chinese."""
    space, *rest = tokenizer.encode(f" {word}").ids
    return rest[0] if tokenizer.id_to_token(space) == "Ġ" else space


def letter_ids(tokenizer: Tokenizer) -> torch.Tensor:
    """A-D, with and without a space before."""
    return torch.tensor(
        [tokenizer.encode(space + letter).ids[-1] for letter in LETTERS for space in ("", " ")]
    )
