"""Beats between hosts over the network of the ranks, which ssh may not go over.

Each host sends every other a small UDP packet four times a second, from and to its address in that
network. A packet holds the sender's number and a count that rises, and proves with the session's
key (HMAC-SHA256) who made it. A peer counts as cut off when it was heard once and then is not for
SILENT_SECONDS: on a slow network that loses half of all packets that does not happen.
"""

import hmac
import select
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

EVERY_SECONDS = 0.25
SILENT_SECONDS = 7.0
# Between two looks, as far as they count: a host that was suspended heard nobody meanwhile.
LONGEST_LOOK = 1.0
BODY = struct.Struct("!HQ")  # the sender's number, and that of its packet
DIGEST = "sha256"
LARGEST = 128  # bytes that are read of a packet
Place = tuple[str, int]  # address and port


class Silence:
    """How long each peer has not been heard."""

    def __init__(self, peers: Iterable[str], now: float) -> None:
        self._seconds = dict.fromkeys(peers, 0.0)
        self._known: set[str] = set()
        self._looked = now

    def look(self, now: float, heard: Collection[str]) -> None:
        """Note who was heard since the last look."""
        since = min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        self._known.update(heard)
        for peer in self._seconds:
            self._seconds[peer] = 0.0 if peer in heard else self._seconds[peer] + since

    def cut_off(self) -> dict[str, float]:
        """Peers that were heard once and are not now, with the seconds of their silence."""
        return {peer: s for peer, s in self._silent().items() if peer in self._known}

    def strangers(self) -> list[str]:
        """Peers that were never heard, so that a cut could not be noticed."""
        return [peer for peer in self._silent() if peer not in self._known]

    def _silent(self) -> dict[str, float]:
        return {peer: s for peer, s in self._seconds.items() if s >= SILENT_SECONDS}


class Packets:
    """Packets as host number `own` makes them, and as it takes those of others."""

    def __init__(self, own: int, key: bytes) -> None:
        self._own = own
        self._key = key
        self._made = 0
        self._taken: dict[int, int] = {}  # the last count of each sender

    def make(self) -> bytes:
        """Make the next packet."""
        self._made += 1
        body = BODY.pack(self._own, self._made)
        return body + hmac.digest(self._key, body, DIGEST)

    def take(self, packet: bytes) -> int | None:
        """Return the sender's number; None for a packet by others, or seen before."""
        body, proof = packet[: BODY.size], packet[BODY.size :]
        if not hmac.compare_digest(proof, hmac.digest(self._key, body, DIGEST)):
            return None
        sender, count = BODY.unpack(body)
        if count <= self._taken.get(sender, 0):
            return None
        self._taken[sender] = count
        return sender


class Beats:
    """This host's beats: its place is known at once, its peers with `begin`."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((address, 0))
        self.place: Place = self._socket.getsockname()
        self.silence = Silence((), 0.0)

    def begin(self, own: str, places: Mapping[str, Sequence], key: bytes) -> None:
        """Send to, and listen for, all of `places` but the `own` one; these are the same on all."""
        names = list(places)
        self._names = names
        self._others = [tuple(place) for name, place in places.items() if name != own]
        self._packets = Packets(names.index(own), key)
        self.silence = Silence((name for name in names if name != own), time.monotonic())
        threading.Thread(target=self._run, name="beats", daemon=True).start()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            select.select([self._socket], [], [], max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if now >= due:
                self._send()
                due = now + EVERY_SECONDS
            self.silence.look(now, self._heard())

    def _send(self) -> None:
        packet = self._packets.make()
        for place in self._others:
            with suppress(OSError):  # no way leads there now
                self._socket.sendto(packet, place)

    def _heard(self) -> set[str]:
        """Who was heard since the last look."""
        found = set()
        with suppress(OSError):  # there is no packet left
            while True:
                sender = self._packets.take(self._socket.recv(LARGEST))
                if sender is not None and sender < len(self._names):
                    found.add(self._names[sender])
        return found
