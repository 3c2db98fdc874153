"""Scores of continuations: the same however rows share their beginnings, and transformers' own."""

import random
from pathlib import Path

import pytest
import torch

import neoxlib
from neoxlib.errors import SettingsError
from neoxlib.inference import score
from neoxlib.inference.score import Request, log_probabilities, prefix_groups, unique_rows
from neoxlib.kernels.cpu import build
from tests.support.oracle_models import make_oracle
from tests.support.thread_ranks import on_ranks

IDS = 200  # of the 211 rows of the vocabulary
WINDOW = 96


@pytest.fixture(scope="module")
def oracle():
    return make_oracle()


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    oracle.save_pretrained(folder)
    return folder


def some(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(IDS) for _ in range(count)]


def exam() -> list[Request]:
    """Two subjects of five examples, long questions after fewer; answers of one or three tokens."""
    chance = random.Random(3)
    requests = []
    for _ in range(2):
        examples = [some(chance, 9) for _ in range(5)]
        for number in range(9):
            length, shots = (6 + number, 5) if number < 6 else (30, 3)
            context = (
                [7, 8] + [i for example in examples[:shots] for i in example] + some(chance, length)
            )
            requests += [Request(context, [letter]) for letter in (11, 12, 13, 14)]
            requests += [Request(context, some(chance, 3))] * (number % 2)
    requests += [Request(requests[0].context[:20], some(chance, 2)), Request([5], some(chance, 90))]
    return chance.sample(requests, len(requests))


@pytest.fixture(scope="module")
def expected(oracle) -> list[tuple[float, bool]]:
    """One plain forward pass of transformers per request: no batch, no cache."""
    found = []
    for context, continuation in exam():
        with torch.no_grad():
            logits = oracle(torch.tensor([[*context, *continuation]])).logits[
                0, len(context) - 1 : -1, :IDS
            ]
        target = torch.tensor(continuation)
        logprobs = logits.log_softmax(-1).gather(1, target[:, None])
        found.append((logprobs.sum().item(), bool((logits.argmax(-1) == target).all())))
    return found


def lower_limits(patch: pytest.MonkeyPatch, **changes: int) -> None:
    """Small enough that a small exam meets them."""
    for name, value in (
        {"MIN_SHARED_TOKENS": 40, "BATCH_TOKENS": 70, "CACHE_TOKENS": 200, "HEAD_ROWS": 7} | changes
    ).items():
        patch.setattr(score, name, value)


def assert_same(found: list, expected: list) -> None:
    assert [s.logprob for s in found] == pytest.approx(
        [logprob for logprob, _ in expected], abs=1e-3
    )
    assert [s.greedy for s in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_scores_are_those_of_transformers_at_any_world_size(
    folder, expected, monkeypatch, size: int, compiled: bool
):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    lower_limits(monkeypatch)

    def work(group):
        return log_probabilities(
            neoxlib.load(folder, compile=compiled, group=group).model, exam(), IDS, WINDOW
        )

    found, *others = on_ranks(size, work)
    assert_same(found, expected)
    assert others == [None] * (size - 1)


def test_sharing_changes_no_score_and_computes_far_fewer_tokens(folder, expected, monkeypatch):
    model = neoxlib.load(folder).model
    computed = []
    states = model.states
    monkeypatch.setattr(
        model, "states", lambda ids, cache, mask: computed.append(ids) or states(ids, cache, mask)
    )
    lower_limits(monkeypatch)
    assert_same(log_probabilities(model, exam(), IDS, WINDOW), expected)
    shared = sum(ids.numel() for ids in computed)
    computed.clear()
    lower_limits(monkeypatch, MIN_SHARED_TOKENS=10**9)
    assert_same(log_probabilities(model, exam(), IDS, WINDOW), expected)
    assert all(len(ids) * ids.shape[1] <= 96 for ids in computed)
    assert shared < 0.6 * sum(ids.numel() for ids in computed)


def plan(requests: list[Request]) -> list[tuple[int, int]]:
    served = unique_rows(requests)
    needed = {
        row: min(len(requests[n].context) for n in numbers) - 1 for row, numbers in served.items()
    }
    return [(shared, len(rows)) for shared, rows in prefix_groups(sorted(served), needed)]


def test_questions_after_fewer_examples_share_those_with_the_others():
    """The nested beginning comes first, so that the longer one continues it."""
    five = [*range(50), *(60 + n // 100 for n in range(500))]
    requests = [Request([*five, 100 + n, 1], [9]) for n in range(8)]
    requests += [Request([*five[:450], 120 + n, 1], [9]) for n in range(4)]
    assert plan(requests) == [(450, 4), (550, 8)]


def test_nothing_is_shared_where_it_does_not_pay():
    few = [Request([1, 2, 3] + [10 + n] * 50, [9]) for n in range(8)]
    assert plan(few) == [(0, 8)]
    assert plan([Request(list(range(150)), [9])]) == [(0, 1)]
    long = [Request([5] * 500 + [10 + n], [9]) for n in range(2)]
    assert plan(long) == [(500, 2)]
    assert plan(few + long) == [(0, 8), (500, 2)]


def test_a_beginning_that_few_tokens_interrupt_is_found_below():
    """Two subjects with three common tokens, too few to share, still share their own prefixes."""
    requests = [
        Request([1, 2, 3] + [subject] * 200 + [20 + n], [9]) for subject in (4, 5) for n in range(3)
    ]
    assert plan(requests) == [(203, 3), (203, 3)]


def test_the_state_that_predicts_the_first_token_is_not_in_the_shared_part():
    """Long answers to one question share it up to its last token."""
    question = list(range(120)) * 3
    assert plan([Request(question, [n, 1, 2]) for n in range(4)]) == [(359, 4)]


def test_an_input_that_begins_another_needs_no_row():
    context = list(range(40))
    served = unique_rows(
        [
            Request(context, [1]),
            Request(context, [2]),
            Request(context, [3, 4]),
            Request([0, 1], [9]),
            Request([8], [9, 1]),
        ]
    )
    assert {row: sorted(numbers) for row, numbers in served.items()} == {
        (*context, 3): [0, 1, 2, 3],
        (8, 9): [4],
    }


def test_batches_hold_as_many_tokens_as_fit_with_the_copies_counted():
    rows = [(1,) * length for length in (1010, 1020, 1100, 1030, 1005)] * 20
    for device, most in (("cpu", score.CPU_TOKENS), ("npu", score.BATCH_TOKENS)):
        found = list(score.batches(rows, 1000, device))
        assert sorted(row for batch in found for row in batch) == sorted(rows)
        assert all(len(batch) * (len(batch[0]) - 1000) <= most for batch in found)
        assert all(len(batch) * len(batch[0]) <= score.CACHE_TOKENS for batch in found)
        assert [len(batch[0]) for batch in found] == sorted(
            (len(batch[0]) for batch in found), reverse=True
        )
    assert [len(batch) for batch in score.batches([(1,) * 5000] * 3, 0)] == [1, 1, 1]


def test_a_batch_is_as_large_as_the_last_so_that_its_copies_are_used_again(monkeypatch):
    monkeypatch.setattr(score, "CPU_TOKENS", 512)
    rows = [(1,) * (300 + n) for n in range(64, 4, -1)]
    sizes = [len(batch) for batch in score.batches(rows, 300)]
    assert sizes == [8, 8, 8, 8, 16, 12]
    assert [len(batch) for batch in score.batches([row[300:] for row in rows], 0)] == [
        8,
        9,
        10,
        13,
        20,
    ]


def test_progress_ends_with_all_requests_on_rank_0_alone(folder, monkeypatch):
    lower_limits(monkeypatch)
    seen = [[], []]

    def work(group):
        model = neoxlib.load(folder, group=group).model
        log_probabilities(
            model, exam(), IDS, WINDOW, lambda *counts: seen[group.rank].append(counts)
        )

    on_ranks(2, work)
    counts = [done for done, _ in seen[0]]
    assert counts == sorted(counts) and len(counts) > 3 and seen[0][-1] == (len(exam()),) * 2
    assert seen[1] == []


def test_what_cannot_be_scored_is_listed_before_any_work():
    bad = [
        Request([], [1]),
        Request([1], []),
        Request([1] * 90, [1] * 8),
        Request([1], [IDS]),
        Request([-1], [1]),
    ]
    with pytest.raises(SettingsError) as error:
        log_probabilities(None, [*bad, Request([1], [2])], IDS, WINDOW)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"request {n}" for n in range(5)]
    assert "97 tokens, but max_seq_len is 96" in lines[3]
