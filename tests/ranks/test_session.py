"""A session of real processes: answers of one rank, errors of its user, and nothing left behind."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import neoxlib
from neoxlib.errors import NotFiniteError, RankError, SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.ranks import outcome
from tests.support import rank_faults as faults
from tests.support.oracle_models import damaged, make_oracle, save_tokenizer
from tests.support.sessions import descendants, open_session
from tests.support.walker import END, USER, byte_tokenizer, path_of, save

PROMPTS = ["A rank is", "Zwei Ränge, 两个"]
IDS = torch.tensor([[5, 9, 2, 17], [7, 3, 250, 1]])

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture(scope="module")
def session(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[neoxlib.Session]:
    with open_session(checkpoint, tmp_path_factory.mktemp("logs")) as session:
        yield session


def test_a_session_answers_as_one_rank_does(session, checkpoint):
    engine = neoxlib.load(checkpoint)
    torch.testing.assert_close(session.logits(IDS), engine.logits(IDS), atol=1e-4, rtol=0)
    sampled = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.8, "seed": 3}
    for settings in ({"max_new_tokens": 12}, sampled):
        answers = session.generate(PROMPTS, **settings)
        expected = engine.generate(PROMPTS, **settings)
        assert [a.token_ids for a in answers] == [e.token_ids for e in expected]
        assert [(a.text, a.finish_reason) for a in answers] == [
            (e.text, e.finish_reason) for e in expected
        ]
    scores = session.score(PROMPTS, [" good", " bad"])
    expected = engine.score(PROMPTS, [" good", " bad"])
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), atol=1e-4, rtol=0)
    assert session.config == engine.config
    assert session.tokenizer("neox").input_ids == engine.tokenizer("neox").input_ids
    assert session.describe()["world_size"] == 2
    assert (
        session.describe()["launch_environment"]["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    )  # the ranks', not ours
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in os.environ


def test_four_ranks_share_memory_and_say_what_one_rank_says(checkpoint, tmp_path):
    expected = neoxlib.load(checkpoint).generate(PROMPTS, max_new_tokens=12)
    with open_session(checkpoint, tmp_path, world_size=4) as session:
        answers = session.generate(PROMPTS, max_new_tokens=12)
        assert session.describe()["backend"] == (
            "shared memory" if build.compiled("allreduce") else "gloo"
        )
    assert [a.token_ids for a in answers] == [e.token_ids for e in expected]


def test_an_error_of_the_user_is_that_error_and_the_session_goes_on(session, checkpoint):
    with pytest.raises(SettingsError) as told:
        neoxlib.load(checkpoint).generate(["much too long"] * 2, max_new_tokens=1000)
    with pytest.raises(SettingsError) as error:
        session.generate(["much too long"] * 2, max_new_tokens=1000)
    assert str(error.value) == str(told.value)
    with pytest.raises(TypeError):  # nothing that travels, so nothing was sent
        session.score(PROMPTS, [(text for text in PROMPTS)] * 2)
    with pytest.raises(TypeError) as error:  # raised in the ranks, which say where
        session.score(PROMPTS, 5)
    assert "engine.py" in "".join(error.value.__notes__)
    assert len(session.generate(PROMPTS, max_new_tokens=2)) == 2


def test_streamed_pieces_come_in_order_and_are_the_text(session, capsys):
    heard = [[], []]
    answers = session.generate(
        PROMPTS, max_new_tokens=20, stream=lambda row, piece: heard[row].append(piece)
    )
    assert [len(pieces) > 1 for pieces in heard] == [True, True]
    assert ["".join(pieces) for pieces in heard] == [answer.text for answer in answers]
    capsys.readouterr()
    answers = session.generate(PROMPTS[:1], max_new_tokens=20, stream=True)
    assert capsys.readouterr().out == answers[0].text + "\n"


def test_an_interrupted_call_stops_on_all_ranks_and_the_session_goes_on(session):
    heard = []

    def interrupt(row: int, piece: str) -> None:
        heard.append(piece)
        signal.raise_signal(signal.SIGINT)

    expected = session.generate(PROMPTS, max_new_tokens=4)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it
    with pytest.raises(KeyboardInterrupt):
        session.generate(PROMPTS, max_new_tokens=60, stream=interrupt)
    signal.signal(signal.SIGINT, before)
    assert len(heard) == 1
    assert [a.text for a in session.generate(PROMPTS, max_new_tokens=4)] == [
        e.text for e in expected
    ]


@pytest.mark.parametrize("way", ["call", "raise"])
def test_a_signal_while_a_call_is_sent_is_handled_when_all_ranks_have_it(session, monkeypatch, way):
    view, send = session._ranks._views[1], session._ranks._views[1].apply_async
    inner = []

    def handle(*_: object) -> None:
        if way == "raise":
            raise TimeoutError
        inner.extend(session.generate(PROMPTS, max_new_tokens=2))

    def signalled(*job: Any) -> Any:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGALRM)
        with pytest.raises(RankError, match="came while another one is sent"):
            session.logits(IDS)
        return send(*job)

    monkeypatch.setattr(view, "apply_async", signalled)
    before = signal.signal(signal.SIGALRM, handle)
    with pytest.raises(TimeoutError) if way == "raise" else nullcontext():
        assert len(session.generate(PROMPTS, max_new_tokens=4)) == 2
    signal.signal(signal.SIGALRM, before)
    assert len(inner) == (0 if way == "raise" else 2)
    assert len(session.generate(PROMPTS, max_new_tokens=4)) == 2


def test_an_interrupt_while_a_call_is_sent_reaches_all_ranks_first(session, monkeypatch):
    view, send = session._ranks._views[0], session._ranks._views[0].apply_async

    def interrupted(*job: Any) -> Any:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        return send(*job)

    monkeypatch.setattr(view, "apply_async", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        session.generate(PROMPTS, max_new_tokens=4)
    signal.signal(signal.SIGINT, before)
    assert len(session.generate(PROMPTS, max_new_tokens=4)) == 2


def test_a_stop_that_this_process_did_not_ask_for_is_an_error_and_no_part_of_an_answer(session):
    def stop(row: int, piece: str) -> None:
        os.kill(session.ranks.pid[0], signal.SIGUSR1)

    with pytest.raises(RankError, match=r"asked to stop \(SIGUSR1\) by another process"):
        for _ in range(100):  # an answer may be whole before the first word of it is heard
            session.generate(PROMPTS, max_new_tokens=60, stream=stop)
    assert len(session.generate(PROMPTS, max_new_tokens=4)) == 2


def test_scoring_is_interrupted_between_two_batches_and_the_session_goes_on(session):
    heard = []

    def interrupt(done: int, total: int) -> None:
        heard.append((done, total))
        signal.raise_signal(signal.SIGINT)

    requests = [(list(range(5, 80 - n % 9)), [n, n + 1]) for n in range(1, 200)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        session.score_ids(requests, stream=interrupt)
    signal.signal(signal.SIGINT, before)
    assert len(heard) == 1
    assert len(session.score_ids(requests[:2])) == 2


def test_ranks_are_listed_and_write_their_own_logs(session):
    assert session._ranks.call(faults.say_who) == "rank 0"
    assert list(session.ranks.index) == [0, 1]
    assert (session.ranks.state == "ready").all() and (session.ranks.resident_mb > 50).all()
    for r, pid in session.ranks.pid.items():
        log = (session.log_dir / f"rank{r}.log").read_text()
        assert f"rank {r} is process {pid}" in log and f"rank {r} was asked" in log
        assert f"rank {1 - r}" not in log


@pytest.mark.parametrize("kind", ["error", "generator", "lock"])
def test_an_answer_that_cannot_be_sent_or_loaded_is_an_error_and_the_session_goes_on(session, kind):
    with pytest.raises(RankError, match=r"cannot be brought .* \(TypeError: [^\n]+\);"):
        session.apply(faults.give, kind)
    assert len(session.generate(PROMPTS, max_new_tokens=2)) == 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [("failed", "layer 3: odd"), ("process", "odd"), ("unspeakable", "Unspeakable")],
)
def test_an_error_that_cannot_be_loaded_is_told_in_words_and_the_session_goes_on(
    session, kind, said
):
    with pytest.raises((RankError, faults.Unspeakable)) as error:
        session.apply(faults.refuse, kind)
    assert said in outcome.words_of(error.value)
    assert "in refuse" in "".join(traceback.format_exception(error.value))
    assert len(session.generate(PROMPTS, max_new_tokens=2)) == 2


def test_tensors_of_any_dtype_and_shape_come_as_arrays(session):
    for kind in ("bfloat16", "parameter"):
        assert session.apply(faults.give, kind).tolist() == [1.0] * 3
    assert session.apply(faults.give, "empty").shape == (0, 5)
    assert str(session.apply(faults.give, "days")[0]) == "1970-01-02"
    assert session.apply(faults.give, "across").tolist() == [[0, 3], [1, 4], [2, 5]]


def test_prompts_and_names_that_can_be_read_only_once_are_read_once(session, checkpoint):
    name = "gpt_neox.layers.0"
    for model in (session, neoxlib.load(checkpoint)):
        answers = model.generate(map(str, PROMPTS), max_new_tokens=2)
        assert [len(one.token_ids) for one in answers] == [2, 2]
        assert [*model.activations(iter(PROMPTS), iter([name]))[0]] == [name]
        assert len(model.score(iter(PROMPTS), iter([" a", " b"]))) == 2


def test_a_tokenizer_size_that_is_no_whole_number_is_refused_and_the_session_goes_on(
    session,
):
    with pytest.raises(SettingsError, match=r"tokenizer_size is 200\.0; the model has 300 rows"):
        session.score_ids([([5], [6])], tokenizer_size=200.0)
    assert len(session.score_ids([([5], [6])])) == 1


def test_logits_are_on_the_cpu_whatever_the_default_device_is_here(session):
    with torch.device("meta"):
        assert session.logits(IDS).device.type == "cpu"


def test_everything_listens_on_loopback_only(session):
    processes = [psutil.Process(pid) for pid in descendants()]
    listening = [
        row.laddr.ip
        for process in processes
        for row in process.net_connections()
        if row.status == "LISTEN"
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("backend", ["", "gloo"])
def test_a_rank_that_is_stopped_at_any_point_changes_no_answer(tmp_path, monkeypatch, backend):
    """The others copy their weights meanwhile: float16 bytes were once added to float32 bytes."""
    monkeypatch.setenv("NEOXLIB_BACKEND", backend)
    make_oracle(vocab_size=30_000, hidden_size=256, intermediate_size=1024).half().save_pretrained(
        tmp_path / "model"
    )
    save_tokenizer(tmp_path / "model")
    with open_session(tmp_path / "model", tmp_path / "logs") as session:
        answers = []
        for pid in [*session.ranks["pid"]] * 2:
            os.kill(pid, signal.SIGSTOP)
            goes_on = threading.Timer(
                0.7, os.kill, (pid, signal.SIGCONT)
            )  # at first before the call, then in it
            goes_on.start()
            time.sleep(0.6 if len(answers) < 2 else 0)
            answers.append(session.logits(IDS))
            goes_on.join()
        session.wait_until_resident()
        settled = session.logits(IDS)
    assert all(torch.equal(logits, settled) for logits in answers)


@pytest.mark.parametrize("world_size", [0, -1, 2.0, "2", True])
def test_a_world_size_that_is_no_number_of_ranks_is_refused(checkpoint, world_size):
    with pytest.raises(SettingsError, match="world_size is"):
        neoxlib.Session(checkpoint, world_size=world_size)


def test_ranks_name_the_layer_that_is_not_finite_and_go_on(tmp_path):
    """Every rank raises the same and none is left waiting: the session still answers afterwards."""
    folder = damaged(tmp_path, "gpt_neox.layers.1.attention.query_key_value.weight")
    with open_session(folder, tmp_path / "logs") as broken:
        for ask in (
            lambda: broken.generate(["ab"]),
            lambda: broken.logits([[66, 67]]),
            lambda: broken.score(["ab"], ["c"]),
            lambda: broken.score_ids([([66], [67])]),
        ):
            with pytest.raises(NotFiniteError, match="is that of layer 1: such numbers are in"):
                ask()
            with pytest.raises(SettingsError, match="rows of unequal lengths"):
                broken.logits([[1, 2], [3]])
        assert broken.ranks["state"].tolist() == ["ready"] * 2


def test_ranks_stop_at_special_tokens_and_continue_ids_without_a_tokenizer(tmp_path):
    tokenizer = byte_tokenizer(USER)
    path = path_of(tokenizer, "Habcd", USER, "uvw", END)
    folder = save(tmp_path, tokenizer, path, eos_token_id=[0, path[-2]])
    with open_session(folder, tmp_path / "logs") as talking:
        assert talking.describe()["end_of_text"] == [0, path[-2]]
        assert talking.generate(["H"], stop=USER)[0].text == "abcd"
        kept = talking.generate(["H"], stop_token_ids=path[-3], skip_special_tokens=False)[0]
        assert kept.text == f"abcd{USER}uv"
        assert talking.generate(["H"])[0].token_ids == path[1:-1]
    (folder / "tokenizer.json").unlink()
    with open_session(folder, tmp_path / "logs") as mute:
        answer = mute.generate([path[:1]])[0]
        assert (answer.token_ids, answer.text) == (path[1:-1], "")


def test_a_graph_that_cannot_be_is_refused_before_a_rank_starts(checkpoint, monkeypatch):
    monkeypatch.setattr("neoxlib.ranks.session.Ranks.start", None)
    with pytest.raises(SettingsError, match="captured on NPUs alone, and this runs on cpu"):
        neoxlib.Session(checkpoint, 2, device="cpu", graph="on")
