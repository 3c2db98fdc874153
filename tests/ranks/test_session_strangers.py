"""Another user of this machine can neither read nor write a session's channels and files."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import neoxlib
from tests.support import strangers
from tests.support.sessions import descendants, open_session
from tests.support.strangers import as_nobody, needs_root

PROMPTS = ["A rank is", "Zwei Ränge, 两个"]
GREETING = 64  # bytes, of ZeroMQ: its version, and the mechanism that it asks for

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture(scope="module")
def others() -> set[int]:
    """Processes of other tests, as a browser's."""
    return set(descendants())


@pytest.fixture(scope="module")
def session(checkpoint: Path, others: set[int]) -> Iterator[neoxlib.Session]:
    """A session with its logs where it puts them by itself."""
    with open_session(checkpoint, None) as session:
        yield session


@pytest.fixture
def processes(session: neoxlib.Session, others: set[int]) -> list[int]:
    """The ranks, and what starts and connects them."""
    return [pid for pid in descendants() if pid not in others]


@pytest.fixture
def ports(processes: list[int]) -> list[int]:
    found = strangers.listeners(processes)
    assert found
    return sorted({one.port for one in found})


def test_a_session_listens_on_loopback_and_its_ranks_not_at_all(session, processes):
    found = strangers.listeners([os.getpid(), *processes])
    assert {one.address for one in found if one.pid != os.getpid()} == {"127.0.0.1"}
    if session.describe()["backend"] == "shared memory":
        assert [one for one in found if one.pid in set(session.ranks.pid)] == []
    assert strangers.named_unix_sockets(processes) == []


def test_what_a_session_writes_is_its_users_alone(session):
    places = [Path(session._ranks._scratch), session.log_dir]
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700}
    files = list(places[0].glob("security/*.json"))
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@needs_root
def test_another_user_opens_no_file_and_no_memory_of_a_session(session):
    inside = [
        str(path)
        for place in (session._ranks._scratch, session.log_dir)
        for path in (Path(place), *Path(place).rglob("*"))
    ]
    own = [
        f"/proc/{pid}/{name}" for pid in session.ranks.pid for name in ("mem", "environ", "maps")
    ]
    own += [str(path) for pid in session.ranks.pid for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert as_nobody(strangers.refused, inside + own) == inside + own


@needs_root
def test_another_user_who_connects_hears_nothing_and_changes_nothing(session, ports):
    answers = [answer.text for answer in session.generate(PROMPTS, max_new_tokens=12)]
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            session.generate(PROMPTS, max_new_tokens=12, stream=lambda *_: None)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        said = as_nobody(strangers.plain_answers, ports)
        heard = [as_nobody(strangers.heard, ports, keys, 2.0) for keys in (False, True)]
    finally:
        stop.set()
        thread.join()
    assert heard == [[], []]
    for words in map(bytes.fromhex, said):
        assert len(words) <= GREETING and (not words[12:] or words[12:17] == b"CURVE")
    assert [answer.text for answer in session.generate(PROMPTS, max_new_tokens=12)] == answers
    assert len(session._ranks._client.ids) == 2
