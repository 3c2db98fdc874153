"""Which ranks sit on which host."""

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts.shares import SHARE, Share, divide, share_of


def test_hosts_are_filled_in_order():
    hosts = {"a": 2, "b": 3}
    assert divide(hosts, 5) == {"a": [0, 1], "b": [2, 3, 4]}
    assert divide(hosts, 3) == {"a": [0, 1], "b": [2]}
    assert divide(hosts, 2) == {"a": [0, 1]}


def test_more_ranks_than_the_hosts_take_are_refused_with_the_hosts():
    with pytest.raises(SettingsError, match=r"6 ranks do not fit.*a:2, b:3, which take 5"):
        divide({"a": 2, "b": 3}, 6)


def test_a_session_alone_has_all_hosts_and_no_variables():
    assert share_of({"a": 2, "b": 3}, 3) == {"a": Share([0, 1]), "b": Share([2])}


def test_sessions_that_fit_on_a_host_stay_on_one_and_know_their_places_there():
    hosts = {"a": 4, "b": 5}
    found = [share_of(hosts, 2, group, 4) for group in range(4)]
    assert [list(one) for one in found] == [["a"], ["a"], ["b"], ["b"]]
    told = [next(iter(one.values())).variables[SHARE] for one in found]
    assert told == ["0,4", "2,4", "0,4", "2,4"]


def test_a_session_alone_on_its_host_is_not_kept_to_a_part_of_it():
    found = [share_of({"a": 2, "b": 2}, 2, group, 2) for group in range(2)]
    assert found == [{"a": Share([0, 1])}, {"b": Share([0, 1])}]


def test_sessions_larger_than_a_host_have_whole_hosts_and_all_the_same_division():
    hosts = dict.fromkeys("abcd", 2)
    found = [share_of(hosts, 4, group, 2) for group in range(2)]
    assert [list(one) for one in found] == [["a", "b"], ["c", "d"]]
    assert [share.ranks for share in found[1].values()] == [[0, 1], [2, 3]]


def test_no_place_is_given_twice_and_every_session_has_all_its_ranks():
    for hosts in ({"a": 1, "b": 1, "c": 1}, {"a": 7, "b": 3}, {"a": 2, "b": 2, "c": 2, "d": 2}):
        for world_size in (1, 2, 3, 4):
            for replicas in (2, 3):
                try:
                    found = [share_of(hosts, world_size, n, replicas) for n in range(replicas)]
                except SettingsError:
                    continue
                used = dict.fromkeys(hosts, 0)
                for one in found:
                    ranks = [rank for share in one.values() for rank in share.ranks]
                    assert ranks == list(range(world_size))
                    for host, share in one.items():
                        used[host] += len(share.ranks)
                assert all(used[host] <= hosts[host] for host in hosts), (hosts, world_size)


@pytest.mark.parametrize(
    ("hosts", "world_size", "told"),
    [
        ({"a": 2, "b": 1}, 2, "2 replicas of 2 ranks do not fit on a:2, b:1: 1 do"),
        ({"a": 1, "b": 1, "c": 1}, 2, "do not fit on a:1, b:1, c:1: 1 do"),
        ({"a": 3, "b": 1, "c": 2, "d": 2}, 4, r"divided as 2\+2 and 3\+1 over a:3, b:1"),
    ],
)
def test_sessions_that_do_not_fit_or_would_sum_otherwise_are_refused(hosts, world_size, told):
    with pytest.raises(SettingsError, match=told):
        share_of(hosts, world_size, 1, 2)
