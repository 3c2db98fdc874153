"""Beats between hosts, over the loopback and with clocks that are made up."""

import os
import time

import pytest

from neoxlib.hosts import beats
from neoxlib.hosts.beats import LONGEST_LOOK, SILENT_SECONDS, Beats, Packets, Silence

KEY = bytes(range(32))


def after(seconds: float, heard: tuple[str, ...] = (), step: float = 0.25) -> Silence:
    """A host that heard both peers once, and then those of `heard` alone."""
    silence = Silence(("b", "c"), 0.0)
    silence.look(0.0, {"b", "c"})
    for i in range(1, round(seconds / step) + 1):
        silence.look(i * step, heard)
    return silence


def test_a_break_of_five_seconds_is_none_and_one_of_seven_names_the_peer_not_heard():
    assert after(5.0).cut_off() == {}
    assert after(SILENT_SECONDS, heard=("c",)).cut_off() == {"b": SILENT_SECONDS}
    again = after(20.0)
    again.look(20.25, {"b", "c"})
    assert again.cut_off() == {}


def test_a_peer_that_was_never_heard_is_a_stranger_and_not_cut_off():
    silence = Silence(("b", "c"), 0.0)
    for i in range(1, 40):
        silence.look(i * 0.25, {"c"})
    assert silence.cut_off() == {} and silence.strangers() == ["b"]


def test_time_in_which_this_host_stood_still_is_no_silence_of_others():
    silence = after(1.0)
    silence.look(1000.0, ())
    assert silence.cut_off() == {} and LONGEST_LOOK < SILENT_SECONDS / 2


def test_a_packet_proves_its_sender_and_counts_once():
    one, two = Packets(1, KEY), Packets(2, KEY)
    first, second = one.make(), one.make()
    assert two.take(second) == 1
    assert two.take(second) is None and two.take(first) is None  # sent again, and out of date
    assert two.take(one.make()) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packet: b"",
        lambda packet: packet[:-1],
        lambda packet: packet + b"\0",
        lambda packet: bytes([packet[0], packet[1] ^ 3]) + packet[2:],  # as if by another
        lambda packet: packet[:9] + b"\xff" + packet[10:],  # as if later
        lambda packet: os.urandom(len(packet)),
    ],
)
def test_a_packet_that_the_key_did_not_make_is_not_taken(spoil):
    assert Packets(2, KEY).take(spoil(Packets(1, KEY).make())) is None
    assert Packets(2, KEY).take(Packets(1, KEY[::-1]).make()) is None


def test_hosts_hear_each_other_at_the_address_they_are_bound_to(monkeypatch):
    monkeypatch.setattr(beats, "EVERY_SECONDS", 0.01)
    pair = {"a": Beats("127.0.0.1"), "b": Beats("127.0.0.2")}
    places = {name: one.place for name, one in pair.items()}
    assert [place[0] for place in places.values()] == ["127.0.0.1", "127.0.0.2"]
    for name, one in pair.items():
        one.begin(name, places, KEY)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not all(one.silence._known for one in pair.values()):
        time.sleep(0.01)
    assert pair["a"].silence._known == {"b"} and pair["b"].silence._known == {"a"}
