"""Ranks agree at their store, and who was not let in neither reads nor writes it."""

import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import zmq

from neoxlib.errors import RankError
from neoxlib.ranks import meeting
from neoxlib.ranks.collectives import TorchGroup
from neoxlib.ranks.meeting import FilePlace, ServedPlace, StoreGroup, open_place, store_at
from tests.support import strangers
from tests.support.process_ranks import Team
from tests.support.strangers import as_nobody, needs_root


@pytest.fixture(scope="module")
def served() -> Iterator[ServedPlace]:
    place = ServedPlace("127.0.0.1")
    yield place
    place.close()


@pytest.fixture
def store(served: ServedPlace) -> dist.Store:
    """As torch makes it: its own keys begin with the name of a group."""
    return dist.PrefixStore("a group", store_at(served.place, 1))


def test_a_store_keeps_what_torch_asks_of_it(store):
    store.set("a", "1")
    assert store.get("a") == b"1" and store.check(["a"]) and not store.check(["a", "b"])
    assert [store.add("n", 2), store.add("n", 3)] == [2, 5]
    assert store.compare_set("c", "", "x") == b"x" and store.compare_set("c", "y", "z") == b"x"
    store.wait(["a", "c"], timedelta(seconds=5))
    with pytest.raises(Exception, match="b"):
        store.wait(["b"], timedelta(seconds=0.1))


def test_ranks_agree_by_a_store_alone(served):
    def agree(rank: int) -> tuple:
        group = StoreGroup(rank, 3, store_at(served.place, 3))
        said = group.broadcast({"text": "两个"} if rank == 0 else None)
        return said, group.all_reduce(torch.tensor([rank, 1])).tolist()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(agree, range(3))) == [({"text": "两个"}, [3, 3])] * 3


def test_ranks_of_one_host_meet_in_a_file_that_only_their_user_enters(tmp_path):
    opened = open_place(["here", "here"], str(tmp_path))
    folder = Path(opened.place.path).parent
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not opened.place.url
    opened.close()
    assert not folder.exists()


def test_a_faulty_question_is_told_to_who_asks_and_the_store_goes_on(served):
    store = store_at(served.place, 2)
    for question in (("fetch", 1), ("add", "text", 1, 2), ("get",)):
        with pytest.raises(RuntimeError):
            store._ask(*question)
    store.set("x", "1")
    assert store.get("x") == b"1"


def asks(url: str, server: bytes, keys: tuple[bytes, bytes]) -> str:
    """What a stranger's socket hears from the store."""
    context = zmq.Context()
    one = context.socket(zmq.REQ)
    one.linger = 0
    one.rcvtimeo = 1000
    if server:
        one.curve_serverkey = server
        one.curve_publickey, one.curve_secretkey = keys
    one.connect(url)
    try:
        one.send(b'["tuple","num_keys"]')
        return repr(one.recv())
    except zmq.ZMQError as error:
        return type(error).__name__
    finally:
        context.destroy(linger=0)


def test_who_lacks_either_key_of_the_store_hears_nothing(served):
    place = served.place
    pair = zmq.curve_keypair()
    own = place.public, place.secret
    assert asks(place.url, place.server, own).startswith("b'=")
    for server, keys in ((b"", ()), (zmq.curve_keypair()[0], own), (place.server, pair)):
        assert asks(place.url, server, keys) == "Again"


@needs_root
def test_another_user_reaches_neither_kind_of_store(served, tmp_path):
    os.chmod(tmp_path, 0o755)
    file = FilePlace(str(tmp_path))
    store_at(file.place, 1).set("a", "1")
    assert as_nobody(strangers.refused, [file.place.path]) == [file.place.path]
    port = int(served.place.url.rpartition(":")[2])
    for keys in (False, True):
        assert as_nobody(strangers.heard, [port], keys, 1.0) == []
    assert all(
        len(bytes.fromhex(said)) <= 64 for said in as_nobody(strangers.plain_answers, [port])
    )
    assert threading.active_count() and store_at(served.place, 1).num_keys() >= 0


def proven(group: TorchGroup, gloo: TorchGroup, impostor: int | None) -> str:
    """What a rank says of its connections when one rank has not the secret."""
    secret = b"guessed" if gloo.rank == impostor else gloo.secret
    try:
        meeting.prove_members(gloo.joined, gloo.rank, gloo.size, secret)
    except RankError as error:
        return str(error)
    return ""


def test_ranks_of_a_gloo_group_find_out_who_is_none_of_them(tmp_path):
    team = Team(2, tmp_path)
    try:
        assert team(proven, None) == ["", ""]
        first, other = team(proven, 1)
        assert "process that says it is rank 1 and is no rank" in first and "rank 0" in other
    finally:
        team.close()


def test_a_store_answers_within_a_time(served, monkeypatch):
    monkeypatch.setattr(meeting, "ANSWER_SECONDS", 0.2)
    nobody = served.place._replace(server=zmq.curve_keypair()[0])
    with pytest.raises(TimeoutError, match="rank 0"):
        store_at(nobody, 2).num_keys()
