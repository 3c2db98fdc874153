"""Several groups of ranks: each on its own part of the machine, together as right as one."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest

import neoxlib
from neoxlib.errors import RankError, SettingsError
from neoxlib.exam import evaluate, evaluation, get_profile, load_task
from neoxlib.hosts.profile import HostsProfile, write_profile
from neoxlib.hosts.shares import GROUP
from neoxlib.hosts.slurm import Partition
from neoxlib.machine import npu_smi
from neoxlib.ranks import placement, worker
from tests.support.exam_files import write_exam
from tests.support.exam_results import byte_tokenizer
from tests.support.oracle_models import make_oracle

OFFICIAL = get_profile("official", "ceval")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_oracle(vocab_size=271, max_position_embeddings=400).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks with one thread that can import this file and do not see pytest, which keeps output."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("PYTEST_CURRENT_TEST")


def test_two_groups_answer_as_one_engine_also_when_one_is_lost_and_leave_nothing_behind(
    model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(evaluation, "PORTION", 1)
    task = load_task("ceval", write_exam(tmp_path / "exam"), shots=2)
    expected = evaluate(neoxlib.load(model_dir), task, OFFICIAL)
    with neoxlib.Session(
        model_dir, 1, device="cpu", replicas=2, log_dir=tmp_path / "logs"
    ) as session:
        found = evaluate(session, task, OFFICIAL)
        pids = list(session.ranks["pid"])
        assert (
            session.ranks.index.names == ["group", "rank"]
            and len(set(pids)) == 2
            and all(map(worker.alive, pids))
        )
        asked = [
            (tmp_path / "logs" / folder / "rank0.log").read_text().count("is ready")
            for folder in (".", "group1")
        ]
        assert asked == [1, 1] and "2 groups of 1 ranks" in repr(session)
        seen = []
        scores = session.score_ids(
            [([5, 6], [7]), ([8], [9, 1])], stream=lambda *counts: seen.append(counts)
        )
        assert seen[-1] == (2, 2) and all(logprob < 0 for logprob, _ in scores)
        os.kill(session.ranks.loc[(0, 0), "pid"], signal.SIGKILL)
        again = evaluate(session, task, OFFICIAL)
        assert "group 0 of ranks was lost" in capsys.readouterr().out
        assert session.score_ids([([5, 6], [7])]), "another group answers"
        os.kill(session.ranks.loc[(1, 0), "pid"], signal.SIGKILL)
        with pytest.raises(RankError, match="This group of ranks has ended"):
            session.score_ids([([5, 6], [7])])
        with pytest.raises(RankError, match="has ended"):
            evaluate(session, task, OFFICIAL)
    pd.testing.assert_frame_equal(found, again, check_exact=True)
    assert not any(map(worker.alive, pids))
    pd.testing.assert_frame_equal(found, expected, atol=1e-5)


def test_an_interrupt_between_two_batches_leaves_the_session_in_use(model_dir, tmp_path):
    requests = [([5 + n % 7] * 90, [n]) for n in range(60)] * 3
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with neoxlib.Session(model_dir, 2, device="cpu", log_dir=tmp_path / "logs") as session:
        session.apply(one_row_a_batch)
        with pytest.raises(KeyboardInterrupt):
            session.score_ids(
                requests, stream=lambda done, total: signal.raise_signal(signal.SIGINT)
            )
        assert len(session.score_ids(requests[:5])) == 5
    signal.signal(signal.SIGINT, before)


def one_row_a_batch(engine: neoxlib.Engine) -> None:
    from neoxlib.inference import score

    score.BATCH_TOKENS = 1
    score.MIN_SHARED_TOKENS = 10**9


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hosts, of a partition of Slurm, and one that is not by neoxlib."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    at = "127.0.0.0/8", "127.0.0.1"
    write_profile("hosts", HostsProfile({"a": 2, "b": 1}, *at))
    write_profile("nodes", HostsProfile({}, *at, slurm=Partition("npu", 2, 2)))
    (tmp_path / "profile_mine").mkdir()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((0, 0, 1, "cpu", None), "replicas is 0"),
        ((0, 2.0, 1, "cpu", None), "replicas is 2.0"),
        ((0, 2, 3, "cpu", None), "2 replicas of 3 ranks need 6 cores.*there are 4"),
        ((0, 3, 1, "npu", None), "need 3 NPUs.*there are 2"),
        ((0, 2, 1, "cpu", "mine"), "launchers of mine are not by neoxlib cluster"),
        ((0, 2, 2, "cpu", "hosts"), "2 replicas of 2 ranks do not fit on a:2, b:1: 1 do"),
        ((0, 2, 3, "cpu", "nodes"), "need 4 nodes.*names 2"),
    ],
)
def test_what_machine_and_hosts_cannot_hold_is_refused(profiles, monkeypatch, asked, message):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(npu_smi, "query", lambda: npu_smi.Smi(cards=CARDS[:2]))
    with pytest.raises(SettingsError, match=message):
        placement.part(*asked)


def test_groups_over_hosts_are_told_which_they_are(profiles):
    assert placement.part(1, 3, 1, "cpu", "hosts") == {GROUP: "1,3"}
    assert placement.part(0, 2, 2, "auto", "nodes") == {GROUP: "0,2"}


def test_a_group_on_a_host_with_others_keeps_to_its_part(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert placement.own_part("npu", 2, None) == {}
    assert placement.own_part("npu", 2, "2,6") == {"ASCEND_RT_VISIBLE_DEVICES": "2,3"}
    assert placement.own_part("cpu", 2, "2,4") == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1,3,5,7")
    assert placement.own_part("npu", 1, "3,4") == {"ASCEND_RT_VISIBLE_DEVICES": "7"}


CARDS = npu_smi.parse(
    (Path(__file__).parents[1] / "fixtures" / "npu_smi" / "910b3_x8.txt").read_text()
).cards


def test_groups_have_cores_and_npus_of_their_own(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert placement.part(1, 2, 2, "cpu", None) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert placement.part(1, 2, 2, "cpu", None) == {}
    monkeypatch.setattr(npu_smi, "query", lambda: npu_smi.Smi(cards=CARDS))
    seen = [
        placement.part(group, 3, 2, "npu", None)["ASCEND_RT_VISIBLE_DEVICES"] for group in range(3)
    ]
    assert seen == ["0,1", "2,3", "4,5"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1,4,5,7")
    assert placement.part(1, 2, 2, "npu", None) == {"ASCEND_RT_VISIBLE_DEVICES": "5,7"}
    assert placement.part(0, 1, 64, "npu", "slurm") == {}
