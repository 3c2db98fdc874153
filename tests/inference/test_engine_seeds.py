"""One seed and one prompt give one text: in any batch, over any ranks, settled or not (float32)."""

from collections.abc import Sequence

import pytest

import neoxlib
from neoxlib.inference.engine import Engine
from neoxlib.kernels.cpu import build
from neoxlib.model.group import Group
from tests.support.thread_ranks import on_ranks

PROMPTS = ("The panda is", "a", "1, 2, 3, 4, 5, 6, 7, 8", "狗")
BATCHES = ((0, 1, 2, 3), (3, 2, 1, 0), (2,), (1, 3), (0, 2, 0))
SETTINGS = {"max_new_tokens": 12, "temperature": 1.1, "top_p": 0.95, "seed": 5}


def texts(engine: Engine, batches: Sequence[Sequence[int]]) -> set[tuple[int, str]]:
    """Each prompt's text in each batch, on the first rank, which alone is given the answers.

    The second copy of a prompt has a stream of its own.
    """
    found = set()
    for batch in batches:
        answers = engine.generate([PROMPTS[n] for n in batch], **SETTINGS)
        found |= {
            (n, str(answer.token_ids))
            for at, (n, answer) in enumerate(zip(batch, answers, strict=False))
            if n not in batch[:at]
        }
    return found


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_seed_gives_one_text_in_any_batch_at_any_world_size_settled_or_not(checkpoint, compiled):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))

    def work(group: Group) -> set[tuple[int, str]]:
        with neoxlib.load(checkpoint, group=group, dtype="float32", compile=compiled) as engine:
            found = texts(engine, BATCHES[::2])
            engine.wait_until_resident()
            return found | texts(engine, BATCHES)

    found = set().union(*(on_ranks(size, work)[0] for size in (1, 2, 4, 8)))
    assert len(found) == len(PROMPTS)
    assert len({text for _, text in found}) == len(PROMPTS)
