"""The monitor of ranks: what they do, how much they hold, what they said last."""

from types import SimpleNamespace

import psutil
import pytest

from neoxlib.errors import UNSEEN
from neoxlib.ranks import worker
from neoxlib.ranks.monitor import LINE, Monitor, last_line
from neoxlib.ranks.tables import rank_table
from tests.support.dangers import dangers
from tests.support.sessions import open_session

pytestmark = pytest.mark.usefixtures("plain_environment")


def states(monitor: Monitor) -> list[str]:
    return [row[4] for row in monitor.table().rows]


def test_the_monitor_follows_ranks_from_ready_over_work_to_their_end(checkpoint, tmp_path):
    session = open_session(checkpoint, tmp_path)
    try:
        monitor = Monitor(session, seconds=0.01)
        assert states(monitor) == ["ready"] * 2
        assert all(float(row[5].replace(",", "")) > 10 for row in monitor.table().rows)
        assert "rank 1 of 2 is ready" in monitor.table().rows[1][6]
        seen: list[list[str]] = []
        work = {"max_new_tokens": 4, "stream": lambda *_: seen.append(states(monitor))}
        session.generate(["a b c"], **work)
        assert seen and seen[0] == ["working"] * 2 and states(monitor) == ["ready"] * 2
        page = monitor.panel()
    finally:
        session.close()
    monitor.renewing.join(60)
    assert not monitor.renewing.is_alive() and page.value.count("ended: it was closed") == 2


def test_the_last_words_of_a_log_are_shown_and_nothing_in_them_runs(tmp_path):
    path = tmp_path / "rank0.log"
    assert last_line(path) == "–"
    path.write_text("")
    assert last_line(path) == "–"
    path.write_text("x" * 10_000 + "\nbefore\n<img src=x onerror=x()>\u202e\x1b[31m\n\n", "utf-8")
    assert last_line(path).startswith("<img src=x onerror=x()>")
    path.write_text("y" * 10_000)
    assert last_line(path) == "y" * LINE + " …"


def test_the_table_of_a_hostile_log_is_text(monkeypatch):
    monitor = Monitor.__new__(Monitor)
    monkeypatch.setattr("neoxlib.ranks.monitor._rows", lambda *_: [("<b>\u202e",) * 7])
    monitor.groups = [(None, None)]
    assert dangers(monitor._repr_html_()) == [] and "<b>" not in monitor._repr_html_()
    assert not UNSEEN.search(monitor._repr_html_() + repr(monitor))


def test_a_rank_that_ends_while_it_is_looked_at_has_no_memory(monkeypatch):
    def gone(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(worker, "alive", lambda _: True)
    monkeypatch.setattr("psutil.Process", gone)
    member = {"rank": 0, "pid": 1, "host": worker.host()}
    ranks = SimpleNamespace(ended="", members=[member], busy=False, log_dir="nowhere")
    assert rank_table(ranks, [{"device": "cpu"}])["resident_mb"].isna().all()
    session = SimpleNamespace(_ranks=ranks, _about=[{"device": "cpu"}])
    session.groups = [session]
    assert Monitor(session).table().rows[0][4:] == ("ready", "–", "–")
