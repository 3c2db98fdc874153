"""How far a load is: the ranks' own counts, in words that follow from them and the clock."""

from types import SimpleNamespace

import pytest

from neoxlib.checkpoint.plan import parameter_plan
from neoxlib.ranks import loading
from neoxlib.ranks.loading import Count, Loading
from neoxlib.ranks.outcome import WEIGHTS
from tests.support.sessions import open_session


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(loading, "time", SimpleNamespace(monotonic=lambda: self.now))


def heard(*counts: tuple[int, int, int]) -> list[dict]:
    return [{WEIGHTS: count} if count else {} for count in counts]


@pytest.mark.usefixtures("plain_environment")
def test_every_rank_counts_the_bytes_of_its_own_part(checkpoint, tmp_path):
    with open_session(checkpoint, tmp_path) as session:
        found = session.loading
    size = sum(row.rank_bytes for row in parameter_plan(checkpoint, 2))
    assert [(c.placed, c.total) for _, c in sorted(found.counts.items())] == [(size, size)] * 2
    assert all(0 <= count.mapped <= size for count in found.counts.values())
    assert repr(found).endswith(f"ready in {loading.words(found.end - found.start)}")
    assert "on 2 ranks" in repr(found) and "2 ranks" in found._repr_html_()


def test_the_words_go_by_what_was_read_and_by_the_clock(monkeypatch):
    clock = Clock(monkeypatch)
    load = Loading(2, show=False)
    clock.now += 3
    assert load.told() == "starting 2 ranks, 3 s"
    load.hear(heard((0, 0, 4 * 10**9), ()))
    assert load.count == Count(0, 0, 8 * 10**9), "the other rank's is taken to be as large"
    load.hear(heard((0, 0, 4 * 10**9), (10**9, 10**9, 4 * 10**9)))
    clock.now += 2
    load.hear(heard((10**9, 0, 4 * 10**9), (2 * 10**9, 10**9, 4 * 10**9)))
    assert load.rate == 1e9
    assert load.told() == "3.00GB of 8.00GB of weights on 2 ranks, 1.00 GB/s, about 5 s left"
    clock.now += 90
    assert load.rate == 1e9, "nothing was heard since"


def test_the_end_says_what_was_mapped_and_what_was_read(monkeypatch):
    clock = Clock(monkeypatch)
    with Loading(1, show=False, name="group 1") as load:
        load.hear(heard((10**9, 10**9, 4 * 10**9)))
        clock.now += 3
        load.hear(heard((4 * 10**9, 10**9, 4 * 10**9)))
        clock.now += 1
    assert load.told() == (
        "group 1: 4.00GB of weights on 1 rank, 1.00GB of them mapped and copied in the "
        "background, 1.00 GB/s, ready in 4 s"
    )
    with Loading(1, show=False) as load:
        load.hear(heard((5, 5, 5)))
    assert "/s" not in load.told(), "nothing was read"


def test_a_load_that_fails_says_so(monkeypatch):
    clock = Clock(monkeypatch)
    load = Loading(2, show=False)
    with pytest.raises(KeyError), load:
        clock.now += 5
        raise KeyError
    assert load.told() == "not loaded, after 5 s"


def test_it_is_silent_in_a_script_and_a_line_where_it_is_asked_for(capsys):
    with Loading(1):
        pass
    assert capsys.readouterr() == ("", "")
    with Loading(1, show=True) as load:
        load.hear(heard((7, 0, 7)))
    out, err = capsys.readouterr()
    assert out == "" and err == f"{load.told()}\n"


def test_in_jupyterlab_it_is_a_bar_that_ends_with_words_for_a_report(monkeypatch):
    monkeypatch.setattr(loading, "in_lab", lambda: True)
    monkeypatch.setattr(loading, "in_notebook", lambda: True)
    bundles = []
    handle = SimpleNamespace(update=lambda bundle, raw: bundles.append(bundle))
    monkeypatch.setattr(
        "IPython.display.display", lambda bundle, **_: (bundles.append(bundle), handle)[1]
    )
    with Loading(2) as load:
        load.hear(heard((5, 0, 10), (10, 0, 10)))
        load.panel.draw(load)
        assert load.panel.bar.value == 0.75
        load.hear(heard((10, 0, 10), (10, 0, 10)))
    assert load.panel.bar.bar_style == "success" and load.panel.bar.value == 1
    assert "ready in" in load.panel.text.value
    assert all("application/vnd.jupyter.widget-view+json" in bundle for bundle in bundles)
    assert bundles[-1]["text/plain"] == load.told()
