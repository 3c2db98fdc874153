"""Where ranks meet to form a group: in a private file on one host, over hosts by CurveZMQ.

torch's own TCPStore asks nobody for a password: whoever reaches its port reads and writes it. Here
the file lies in a folder that only this user can enter; and over hosts rank 0's store answers only
to the key that the session hands to its ranks, in its own encrypted messages.
"""

import hmac
import itertools
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import zmq
from torch import Tensor
from zmq.auth.thread import ThreadAuthenticator

from neoxlib.errors import RankError
from neoxlib.model import words
from neoxlib.model.group import Group
from neoxlib.ranks.surroundings import Place, address_seen_by

POLL_SECONDS = 0.01  # between two questions for a key that is not there yet
ANSWER_SECONDS = 30.0  # for rank 0's store to answer one question
LOOK_MS = 500  # between two looks of the store whether it is closed
FILE = "store"
SECRET = "secret"
NONCE = 32  # bytes
# Stores of this process: torch calls their methods for as long as a group lives, and keeps none.
_kept: list[dist.Store] = []


class FilePlace:
    """A store in a file of a new folder, which goes with this object or with this process."""

    def __init__(self, above: str | None) -> None:
        folder = tempfile.mkdtemp(prefix="neoxlib-store-", dir=above)
        self.place = Place(path=str(Path(folder, FILE)))
        self.close = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


class ServedPlace:
    """A store in the memory of this process, at an address that the other hosts see."""

    def __init__(self, address: str) -> None:
        server, own = zmq.curve_keypair()
        public, secret = zmq.curve_keypair()
        self._values: dict[str, bytes] = {}
        self._closed = False
        self._context = zmq.Context()
        self._gate = ThreadAuthenticator(self._context)
        self._gate.start()
        self._gate.configure_curve_callback(credentials_provider=Ticket(public))
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.curve_server = True
        self._socket.curve_secretkey, self._socket.curve_publickey = own, server
        port = self._socket.bind_to_random_port(f"tcp://{address}")
        self.place = Place("", f"tcp://{address}:{port}", server, public, secret)
        self._thread = threading.Thread(target=self._serve, name="ranks' store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the store."""
        self._closed = True
        self._thread.join()
        self._gate.stop()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._closed:
            if not self._socket.poll(LOOK_MS):
                continue
            rank, _, asked = self._socket.recv_multipart()
            self._socket.send_multipart([rank, b"", self._answer(asked)])

    def _answer(self, asked: bytes) -> bytes:
        try:
            name, *args = words.decode(asked)
            return b"=" + words.encode(OPERATIONS[name](self._values, *args))
        except Exception as error:  # who asks is told, and others are answered all the same
            return b"!" + words.encode(f"{type(error).__name__}: {error}")


class Ticket:
    """Lets in who has the one key that the ranks were given."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def callback(self, _: str, key: bytes) -> bool:
        """Say whether the owner of a public key may come in."""
        return key == self.key


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _add(values: dict[str, bytes], key: str, amount: int) -> int:
    values[key] = str(int(values.get(key, b"0")) + amount).encode()
    return int(values[key])


def _compare_set(values: dict[str, bytes], key: str, expected: bytes, desired: bytes) -> bytes:
    if values.get(key, b"") == expected:
        values[key] = desired
    return values.get(key, expected)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "set": lambda values, key, value: values.update({key: value}),
    "get": lambda values, key: values.get(key),
    "add": _add,
    "compare_set": _compare_set,
    "check": lambda values, keys: all(key in values for key in keys),
    "delete_key": lambda values, key: values.pop(key, None) is not None,
    "num_keys": len,
}


class ServedStore(dist.Store):
    """torch's store, by questions to the ServedPlace of rank 0."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._limit = timedelta(seconds=300)
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.rcvtimeo = self._socket.sndtimeo = int(ANSWER_SECONDS * 1e3)
        self._socket.curve_serverkey = place.server
        self._socket.curve_publickey, self._socket.curve_secretkey = place.public, place.secret
        self._socket.connect(place.url)
        self.close = weakref.finalize(self, self._socket.close, linger=0)

    def set(self, key: str, value: bytes | str) -> None:
        self._ask("set", key, _bytes(value))

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._ask("get", key)

    def add(self, key: str, amount: int) -> int:
        return self._ask("add", key, amount)

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        return self._ask("compare_set", key, _bytes(expected), _bytes(desired))

    def check(self, keys: Sequence[str]) -> bool:
        return self._ask("check", list(keys))

    def delete_key(self, key: str) -> bool:
        return self._ask("delete_key", key)

    def num_keys(self) -> int:
        return self._ask("num_keys")

    def set_timeout(self, limit: timedelta) -> None:
        self._limit = limit

    def wait(self, keys: Sequence[str], limit: timedelta | None = None) -> None:
        end = time.monotonic() + (limit or self._limit).total_seconds()
        while not self.check(keys):
            if time.monotonic() > end:
                raise TimeoutError(f"no rank has written {', '.join(keys)}")
            time.sleep(POLL_SECONDS)

    def _ask(self, *question: Any) -> Any:
        with self._lock:
            try:
                self._socket.send(words.encode(question))
                answer = self._socket.recv()
            except zmq.Again as error:
                said = f"the store of rank 0 did not answer within {ANSWER_SECONDS:g} s"
                raise TimeoutError(said) from error
        if answer[:1] == b"!":
            raise RuntimeError(words.decode(answer[1:]))
        return words.decode(answer[1:])


class StoreGroup(Group):
    """Ranks that have a store and no group yet: slow, and enough to agree on one."""

    def __init__(self, rank: int, size: int, store: dist.Store) -> None:
        super().__init__()
        self.rank = rank
        self.size = size
        self.store = store
        self.count = 0

    def broadcast(self, value: Any) -> Any:
        return self._everyones(value, [0])[0]

    def all_reduce(self, x: Tensor) -> Tensor:
        parts = self._everyones(x.tolist(), range(self.size))
        return x.copy_(torch.tensor(parts, dtype=x.dtype).sum(0))

    def _everyones(self, value: Any, ranks: Sequence[int]) -> list[Any]:
        self.count += 1
        if self.rank in ranks:
            self.store.set(f"word {self.count} {self.rank}", words.encode(value).decode())
        return [words.decode(self.store.get(f"word {self.count} {rank}")) for rank in ranks]


def shared_secret(store: dist.Store, rank: int) -> bytes:
    """Return a secret that the ranks at a store have in common, and nobody else."""
    if rank == 0:
        store.set(SECRET, secrets.token_hex(NONCE))
    return bytes(store.get(SECRET))


def prove_members(group: dist.ProcessGroup | None, rank: int, size: int, secret: bytes) -> None:
    """Raise RankError if a connection of a gloo group leads to who has not the secret.

    gloo takes the first who connects and names a rank; so each two ranks prove to each other who
    they are. All ranks of the group call it together, and then its connections are theirs.
    """
    for pair in itertools.combinations(range(size), 2):
        if rank in pair:
            other = sum(pair) - rank
            mine = secrets.token_bytes(NONCE)
            theirs = _swap(group, mine, other, rank < other)
            said = _swap(group, _proof(secret, rank, mine, theirs), other, rank < other)
            if not hmac.compare_digest(said, _proof(secret, other, theirs, mine)):
                raise RankError(
                    f"rank {rank} is connected to a process that says it is rank {other} and is no "
                    "rank of this session: another user of this machine or network was faster"
                )


def _proof(secret: bytes, rank: int, own: bytes, other: bytes) -> bytes:
    return hmac.digest(secret, b"%d" % rank + own + other, "sha256")


def _swap(group: dist.ProcessGroup | None, said: bytes, other: int, first: bool) -> bytes:
    """Exchange as many bytes with another rank."""
    mine = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    theirs = torch.empty_like(mine)
    if first:
        dist.send(mine, group=group, group_dst=other)
    dist.recv(theirs, group=group, group_src=other)
    if not first:
        dist.send(mine, group=group, group_dst=other)
    return theirs.numpy().tobytes()


def open_place(hosts: Sequence[str], above: str | None) -> FilePlace | ServedPlace:
    """Open what the ranks on `hosts` meet in, on rank 0; `above` is its private folder, if any."""
    if len(set(hosts)) == 1:
        return FilePlace(above)
    return ServedPlace(address_seen_by(hosts))


def store_at(place: Place, size: int) -> dist.Store:
    """Return the store of `size` ranks that meet at a place."""
    if place.path:
        return dist.FileStore(place.path, size)
    _kept.append(ServedStore(place))
    return _kept[-1]
