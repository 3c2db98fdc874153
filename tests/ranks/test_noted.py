"""The log of a rank says why calls failed, and does not grow with every one that is refused."""

import logging
import pickle

import pytest

from neoxlib.errors import SettingsError
from neoxlib.ranks import noted
from neoxlib.ranks.worker import RankJob


def refuse() -> None:
    raise SettingsError("a prompt of 9 tokens")


def fail() -> None:
    raise KeyError("x")


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(noted, "_seen", type(noted._seen)())


def test_the_first_errors_of_a_kind_are_logged_with_their_traceback(caplog):
    with caplog.at_level(logging.INFO, "neoxlib"):
        for job in (refuse, fail):
            assert RankJob(job, ())()[0].startswith("Traceback")
    assert caplog.messages == ["refuse failed", "fail failed"]
    assert 'raise SettingsError("a prompt of 9 tokens")' in caplog.text


def test_a_log_does_not_grow_with_the_calls_that_are_refused(caplog):
    def size() -> int:
        with caplog.at_level(logging.INFO, "neoxlib"):
            for _ in range(1000):
                _, words, error = RankJob(refuse, ())()
                assert words and isinstance(pickle.loads(error), SettingsError)
        return len(caplog.text)

    first = size()
    second = size()
    assert len(caplog.records) == 8 + 7  # the 16th, 32nd, 64th, ... 1024th
    assert "refuse failed, the 1024th time with SettingsError" in caplog.messages
    assert second < 1.2 * first
