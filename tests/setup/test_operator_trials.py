"""The trials of operators on emulated ones: the right pass, planted mistakes fail."""

import pytest

from neoxlib.kernels import npu, plain
from neoxlib.kernels.npu import NpuOps
from neoxlib.model.quant import SCHEMES
from neoxlib.setup import operator_trials, trial_groups
from neoxlib.setup.npu_trials import Site, Trial
from tests.support.npu import reference as reference
from tests.support.npu.pages import PAGES

reference.install()

SITES = [Site("cpu", family, "float16") for family in (*npu.OPS, "unknown")]
SITES.append(Site("cpu", "A2", "bfloat16"))
A2 = SITES[0]


def asked(at: Site = A2) -> dict[str, Trial]:
    with reference.on_chip(at.family):
        asks = [
            ask for group in operator_trials.GROUPS for ask in operator_trials.operators(at, group)
        ]
        return {trial.name: trial for trial in (make() for _, make in asks)}


@pytest.mark.parametrize("at", SITES, ids=lambda at: f"{at.family}-{at.dtype}")
def test_every_operator_of_every_chip_passes_with_room_to_spare_emulated(at):
    found = asked(at)
    rounded = {name: trial.figures["max_error_in_roundings"] for name, trial in found.items()}
    assert all(trial.passed for trial in found.values()) and max(rounded.values()) < 4, rounded
    known = npu.OPS.get(at.family, npu.PLAIN)
    assert len(found) == 13 + known.graph + len(known.packed)


def test_a_trial_names_the_operator_that_it_asked_emulated():
    both = [*asked().values(), *asked(SITES[2]).values()]
    served = {trial.detail.partition(";")[0] for trial in both}
    assert served == {*PAGES, "PyTorch's own"}


def scaled(by: float):
    return lambda self, q, k, v, mask, end: NpuOps.attend_(self, q * by, k, v, mask, end)


MISTAKES = {
    "attention without its scale": ("attend", scaled(96**0.5), "attention"),
    "attention that reads past the end": (
        "attend",
        lambda self, q, k, v, mask, end: plain.attend(q, k, v, None, k.shape[2]),
        "attention",
    ),
    "a mask that hides nothing": (
        "attend",
        lambda self, q, k, v, mask, end: plain.attend(q, k, v, None, end),
        "attention",
    ),
    "sine and cosine exchanged": (
        "rotate",
        lambda self, x, cos, sin: NpuOps.rotate_(self, x, sin, cos),
        "rotary",
    ),
    "heads in the wrong order": ("rotate", lambda self, x, cos, sin: x.flip(1), "rotary"),
    "pairs that lie side by side": (
        "rotate",
        lambda self, x, c, s: npu.npu.npu_rotary_mul(x, c, s, "interleave"),
        "rotary",
    ),
    "fast_gelu": ("activate", lambda self, x, form: npu.npu.fast_gelu(x), "activation"),
    "a norm without its bias": (
        "layer_norm",
        lambda self, x, weight, bias, eps: plain.layer_norm(x, weight, bias * 0, eps),
        "layer norm",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_fail_emulated(monkeypatch, mistake):
    method, wrong, name = MISTAKES[mistake]
    monkeypatch.setattr(NpuOps, f"{method}_", getattr(NpuOps, method), raising=False)
    monkeypatch.setattr(NpuOps, method, wrong)
    failed = [trial.name for trial in asked().values() if not trial.passed]
    assert failed and all(trial.startswith(name) for trial in failed)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_packed_product_with_a_wrong_scale_fails_emulated(monkeypatch, name):
    kind = type(SCHEMES[name])
    right = kind.npu_arguments
    monkeypatch.setattr(
        kind,
        "npu_arguments",
        lambda self, packed, dtype: (
            (found := right(self, packed, dtype))
            | {"antiquant_scale": found["antiquant_scale"] * 1.01}
        ),
    )
    assert [trial.name for trial in asked().values() if not trial.passed] == [
        f"product with packed {name}"
    ]


def test_an_operator_that_raises_fails_and_the_others_are_asked_emulated(monkeypatch):
    def refuse(*_):
        raise RuntimeError("aclnn call failed\nerror code 561002")

    monkeypatch.setattr(NpuOps, "rotate", refuse)
    found = asked()
    assert found["rotary positions"].detail == "RuntimeError: aclnn call failed"
    assert (
        found["rotary positions"].error is None
        and sum(not trial.passed for trial in found.values()) == 1
    )


def test_the_groups_of_operators_are_those_that_the_parent_knows_without_torch():
    assert operator_trials.GROUPS == trial_groups.OPERATOR_GROUPS == tuple(operator_trials.CASES)
