"""A wire that delays and loses frames, between two network cards of its own (taps).

The kernel's netem does the same where it was built in. `verify.py` starts this where the bridges
are: python -m tests.hosts.wire NEAR FAR DELAY_SECONDS LOST_PART. It says when the cards are there,
and ends with its standard input.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from contextlib import suppress

TAP, WITHOUT_HEADER = 0x0002, 0x1000  # IFF_TAP, IFF_NO_PI
TUNSETIFF = 0x400454CA
LARGEST = 1 << 16  # bytes of a frame
MOST = 20_000  # frames on the way; more are lost, as in a full queue


def tap(name: str) -> int:
    """Make a card; what is sent over it can be read, what is written it receives."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | WITHOUT_HEADER))
    return file


def carry(cards: tuple[int, int], delay: float, lost: float) -> None:
    """Hand frames on in both directions until standard input ends."""
    chance = random.Random(0)
    other = {cards[0]: cards[1], cards[1]: cards[0]}
    waiting: list[tuple[float, int, int, bytes]] = []  # when, number, to, frame
    number = 0
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*cards, sys.stdin], [], [], patience)
        if sys.stdin in ready:
            return
        for card in ready:
            frame = os.read(card, LARGEST)
            number += 1
            if chance.random() >= lost and len(waiting) < MOST:
                heapq.heappush(waiting, (time.monotonic() + delay, number, other[card], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, card, frame = heapq.heappop(waiting)
            with suppress(OSError):  # a card that is down, or full
                os.write(card, frame)


def main(near: str, far: str, delay: str, lost: str) -> None:
    cards = tap(near), tap(far)
    print("ready", flush=True)
    carry(cards, float(delay), float(lost))


if __name__ == "__main__":
    main(*sys.argv[1:])
