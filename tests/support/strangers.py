"""Another user of this machine: what he can find of a process, and of its ports."""

import json
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NOBODY = 65534
LISTENS = "0A"
READ = os.O_RDONLY | os.O_NONBLOCK
WRITE = os.O_WRONLY | os.O_NONBLOCK
SECONDS = 0.25  # for an answer
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")


class Listener(NamedTuple):
    """A socket that waits for others to connect or to send."""

    pid: int
    kind: str
    address: str
    port: int


def as_nobody(look: Callable[..., Any], *args: Any) -> Any:
    """Return what `look(*args)` returns, which must be JSON, to another user of this machine."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write, json.dumps(look(*args)).encode())
            code = 0
        os._exit(code)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the other user's process failed"
    return json.loads(said)


def listeners(pids: Iterable[int]) -> list[Listener]:
    """Sockets of these processes that others may reach, as /proc/net tells them."""
    return [
        Listener(pid, kind, address, port)
        for pid in pids
        for kind in ("tcp", "tcp6", "udp", "udp6")
        for address, port in _open(pid, kind)
    ]


def _open(pid: int, kind: str) -> list[tuple[str, int]]:
    own = _sockets(pid)
    rows = [line.split() for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]]
    waits = [row for row in rows if row[9] in own and (kind[:3] == "udp" or row[3] == LISTENS)]
    return [_address(row[1]) for row in waits]


def _sockets(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    return found


def _address(word: str) -> tuple[str, int]:
    """Read 0100007F:1F90, whose words of four bytes are in the order of the machine."""
    name, _, port = word.partition(":")
    raw = b"".join(bytes.fromhex(name[n : n + 8])[::-1] for n in range(0, len(name), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def named_unix_sockets(pids: Iterable[int]) -> list[str]:
    """Unix sockets of these processes that have a name, by which others might reach them."""
    own = set().union(*map(_sockets, pids))
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if len(row) > 7 and row[6] in own]


def refused(paths: Iterable[str]) -> list[str]:
    """Those of the paths that this user can neither read nor write, nor list."""
    return [path for path in paths if not any(_opens(path, mode) for mode in (READ, WRITE))]


def _opens(path: str, mode: int) -> bool:
    try:
        os.close(os.open(path, mode))
    except OSError:
        return False
    return True


def plain_answers(ports: Iterable[int]) -> list[str]:
    """What ports send to one who connects, and to one who sends what may come first there."""
    return [_answer(port, said).hex() for port in ports for said in (b"", b"\0" * 64, GREETING)]


# ZeroMQ's, of a client that asks for no security.
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\3\1NULL" + b"\0" * 48


def _answer(port: int, said: bytes) -> bytes:
    answer = b""
    with suppress(OSError), socket.socket() as other:
        other.settimeout(SECONDS)
        other.connect(("127.0.0.1", port))
        other.sendall(said)
        while piece := other.recv(1 << 16):
            answer += piece
    return answer


def heard(ports: Iterable[int], encrypted: bool, seconds: float) -> list[str]:
    """What a stranger's sockets of ZeroMQ hear who subscribes to all, asks, and orders."""
    import zmq

    context = zmq.Context()
    poller = zmq.Poller()
    for port in ports:
        for kind in (zmq.SUB, zmq.DEALER):
            one = context.socket(kind)
            one.linger = 0
            if encrypted:  # with keys of his own: he has not seen the session's
                one.curve_serverkey = zmq.curve_keypair()[0]
                one.curve_publickey, one.curve_secretkey = zmq.curve_keypair()
            if kind == zmq.SUB:
                one.subscribe(b"")
            one.connect(f"tcp://127.0.0.1:{port}")
            poller.register(one, zmq.POLLIN)
            if kind == zmq.DEALER:
                one.send_multipart(REGISTRATION, zmq.NOBLOCK)
    return [repr(one.recv_multipart()) for one, _ in poller.poll(seconds * 1e3)]


# ipyparallel's request of a new engine, unsigned.
REGISTRATION = [
    b"<IDS|MSG>",
    b"",
    b'{"msg_id": "1", "msg_type": "registration_request", "username": "x", "session": "x"}',
    b"{}",
    b"{}",
    b'{"uuid": "11111111-1111-1111-1111-111111111111", "id": null}',
]
