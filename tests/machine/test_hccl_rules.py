"""What HCCL asks of chips, ranks and servers: each rule is broken by its fault and no other."""

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.hccl_rules import RULES, Ranks, broken_rules, ports, refuse_ranks, remark


@pytest.mark.parametrize(
    ("chip", "size", "place", "words"),
    [
        ("300I Pro", 2, {}, "only the 300I Duo has HCCL; use one rank.*hccl_intro.md:58"),
        ("310B1", 2, {}, "use one rank.*hccl_intro.md:36"),
        ("910A", 3, {}, "1, 2, 4 or 8 ranks.*constraints.md:44"),
        ("910A", 6, {"here": 3, "servers": 2}, "1, 2, 4 or 8 ranks"),
        ("910A", 2, {"ids": (3, 4)}, "0 to 3 or within 4 to 7.*constraints.md:44"),
        ("910A", 4, {"ids": (0, 1, 2, 4)}, "0 to 3 or within 4 to 7"),
        ("300I Duo", 4, {"here": 2, "servers": 2}, "on 2 servers .*one server.*constraints.md:50"),
        ("910B3", 32, {"here": 16, "servers": 2}, "8 ranks at most.*constraints.md:37"),
    ],
)
def test_ranks_that_hccl_does_not_serve_are_refused_with_the_rule_and_its_source(
    chip, size, place, words
):
    with pytest.raises(SettingsError, match=f"{size} ranks on {chip}.*{words}"):
        refuse_ranks(CHIPS[chip], size, **place)


@pytest.mark.parametrize(
    ("chip", "size", "place"),
    [
        ("300I Pro", 1, {}),
        ("310B1", 1, {}),
        ("910A", 1, {}),
        ("910A", 8, {}),
        ("910A", 4, {"ids": (4, 5, 6, 7)}),
        ("910A", 8, {"ids": tuple(range(8))}),
        ("910A", 8, {"here": 4, "servers": 2}),
        ("300I Duo", 32, {}),
        ("310P3", 4, {}),
        ("910B3", 6, {}),
        ("910B3", 16, {"here": 8, "servers": 2}),
        ("A3", 16, {}),
        ("cpu", 3, {}),
    ],
)
def test_ranks_that_hccl_serves_are_not_refused(chip, size, place):
    refuse_ranks(CHIPS[chip], size, **place)


def test_every_rule_is_broken_by_itself_somewhere():
    alone = {
        broken_rules(Ranks(chip, size, here, servers, ids))
        for chip in CHIPS.values()
        for size, here, servers in ((2, 2, 1), (3, 3, 1), (4, 2, 2), (32, 16, 2))
        for ids in (None, (3, 4))
    }
    assert {one[0] for one in alone if len(one) == 1} >= {
        f"{rule.asks} (hccl 09300b70, docs/zh/{rule.source})" for rule in RULES
    }


def test_only_a_310p3_whose_card_is_not_known_has_a_remark_and_only_for_several_ranks():
    said = {name: remark(chip, 2) for name, chip in CHIPS.items()}
    assert [name for name, text in said.items() if text] == ["310P3"]
    assert "300I Pro" in said["310P3"] and not remark(CHIPS["310P3"], 1)


@pytest.mark.parametrize(
    ("base", "first", "last"),
    [("", 60000, 60031), ("50000", 50000, 50031), ("x", 60000, 60031), ("65520", 65520, 65535)],
)
def test_hccl_takes_32_ports_of_the_host_from_its_base(base, first, last):
    assert (ports(base)[0], ports(base)[-1]) == (first, last)
