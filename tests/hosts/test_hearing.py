"""Which host is cut off, by what hosts say of each other."""

import logging

import pytest

from neoxlib.hosts import hearing
from neoxlib.hosts.checks import HERE
from neoxlib.hosts.hearing import Hearing, find_cut

NETWORK = "10.77.0.0/24"


@pytest.mark.parametrize(
    ("unheard", "hosts"),
    [
        ({"a": {"b": 7.1}, HERE: {"b": 7.2}, "b": {"a": 7.0, HERE: 7.0}}, {"b"}),
        ({"a": {"b": 7.1}, HERE: {"b": 7.2}}, {"b"}),  # b's own word does not come
        ({"b": {"a": 7.0, HERE: 7.0}}, {"b"}),
        ({"a": {HERE: 7.0}, "b": {HERE: 7.0}}, {HERE}),
        ({"a": {"b": 7.0}, "b": {"a": 7.3}, HERE: {}}, {"a", "b"}),  # between these two alone
        ({"a": {HERE: 7.0}}, {"a", HERE}),
        ({"a": {"b": 7.0}, "c": {HERE: 8.0}}, {"a", "b", "c", HERE}),
    ],
)
def test_the_host_that_every_silence_has_to_do_with_is_the_one_cut_off(unheard, hosts):
    cut = find_cut(unheard, NETWORK)
    assert cut.hosts == hosts
    assert NETWORK in cut.words and all(host in cut.words for host in hosts)


def test_hosts_that_all_hear_each_other_are_not_cut():
    assert find_cut({}, NETWORK) is None and find_cut({"a": {}, "b": {}}, NETWORK) is None


def test_the_words_name_the_host_the_network_and_the_time():
    cut = find_cut({"a": {"b": 7.1}, HERE: {"b": 7.2}}, NETWORK)
    assert cut.words == (
        "b is cut off from a and this machine in the network of the ranks, 10.77.0.0/24: not heard "
        "for 7 s"
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[Hearing, list[dict]]:
    monkeypatch.setattr(hearing, "VOTE_SECONDS", 0.0)
    said: list[dict] = []
    hosts = ("a", "b", HERE)
    return Hearing(NETWORK, {host: lambda **words: said.append(words) for host in hosts}), said


def test_hosts_are_told_of_each_other_once_all_listen_with_one_key_and_their_own_name(told):
    one, said = told
    one.take("a", {"at": ["10.77.0.2", 1]})
    one.take(HERE, {"at": ["10.77.0.1", 2]})
    assert said == []
    one.take("b", {"at": ["10.77.0.3", 3]})
    assert [words["own"] for words in said] == ["a", "b", HERE]
    assert len({words["key"] for words in said}) == 1 and len(said[0]["key"]) == 64
    assert said[0]["places"] == {"a": ["10.77.0.2", 1], HERE: ["10.77.0.1", 2]} | {
        "b": ["10.77.0.3", 3]
    }


def test_a_silence_that_ends_is_no_cut(told):
    one, _ = told
    one.take("a", {"unheard": {"b": 7.0}})
    assert one.cut().hosts == {"a", "b"}
    one.take(HERE, {"unheard": {"b": 7.0}})
    assert one.cut().hosts == {"b"}
    one.take("a", {"unheard": {}})
    one.take(HERE, {"unheard": {}})
    assert one.cut() is None


def test_a_first_word_waits_for_those_of_other_hosts(told, monkeypatch):
    one, _ = told
    monkeypatch.setattr(hearing, "VOTE_SECONDS", 3600.0)
    one.take("a", {"unheard": {"b": 7.0}})
    assert one.cut() is None


def test_a_host_that_was_never_heard_is_a_warning(told, caplog):
    one, _ = told
    with caplog.at_level(logging.WARNING, "neoxlib"):
        one.take("a", {"unheard": {}, "strangers": ["b"]})
    assert one.cut() is None and "a has never heard b over UDP in 10.77.0.0/24" in caplog.text
