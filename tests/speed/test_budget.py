"""The budget's sums against sums made otherwise, and the model's own parameters and memory."""

import os
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.speed.budget import Budget
from neoxlib.speed.plan import plan
from tests.support.planned import SMALL, TWENTY_B

DATA = Path(os.environ.get("NEOXLIB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def weights_gb(world_size, **options):
    return sum(plan(TWENTY_B, world_size, chip="910B3", **options).budget.weights.values()) / 1e9


def test_the_config_used_here_is_that_of_the_real_checkpoint():
    folder = DATA / "neox20b"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    real = ModelConfig.from_dir(folder)
    assert replace(real, unused=(), eos_token_id=None) == TWENTY_B


def test_gpt_neox_20b_has_the_published_size():
    """20.5546 G parameters are 41.11 GB in float16, and a position of the cache is 1,081,344
    bytes.
    """
    assert round(weights_gb(1), 2) == 41.11
    assert plan(TWENTY_B, 1, seq_len=1, chip="910B3").budget.kv_cache == 1_081_344
    assert plan(TWENTY_B, 8, 3, 2048, chip="910B3").budget.kv_cache == 1_081_344 * 3 * 2048 // 8


@pytest.mark.parametrize(("world_size", "vendor_gb"), [(2, 20.87), (4, 10.74), (8, 5.68)])
def test_a_rank_holds_what_the_vendors_cut_gives_less_its_whole_copy_of_the_embedding(
    world_size, vendor_gb
):
    """The vendor's script keeps all 50432 rows of embed_in on every rank; here they are cut like
    the head's.
    """
    rows_saved = 50432 * 6144 * 2 * (1 - 1 / world_size) / 1e9
    assert weights_gb(world_size) == pytest.approx(vendor_gb - rows_saved, abs=0.01)


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_the_budget_is_the_bytes_of_the_model_each_rank_builds(world_size, tied):
    config = replace(SMALL, tie_word_embeddings=tied)
    budget = Budget(config, world_size, 1, 8, "float32")
    for rank, parts in enumerate(budget.ranks):
        group = Group()
        group.rank = rank
        group.size = world_size
        model = GPTNeoX(config, group)
        assert sum(parts.values()) == sum(p.nbytes for p in model.parameters())
        cache = KVCache(config, 1, 8, group)
        assert budget.kv_cache == sum(held.nbytes for held in cache.layers)
    assert budget.weights == max(budget.ranks, key=lambda parts: sum(parts.values()))
    assert (budget.weights["head"] == 0) == tied


class Peak(TorchDispatchMode):
    """Adds up the storages that ops make and forgets those that die; those in `known` were there
    before.
    """

    def __init__(self, known):
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for storage in (
            t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)
        ):
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        return out

    def forget(self, key, size):
        self.known.discard(key)
        self.live -= size


@pytest.mark.parametrize(
    ("batch", "seq_len", "dtype"), [(1, 64, "float32"), (4, 256, "float32"), (2, 512, "bfloat16")]
)
@pytest.mark.parametrize("intermediate", [100, 256])
def test_the_workspace_estimate_is_never_short_and_not_far_off(batch, seq_len, dtype, intermediate):
    config = replace(SMALL, intermediate_size=intermediate)
    with torch.no_grad():
        model = GPTNeoX(config).to(getattr(torch, dtype))
        cache = KVCache(config, batch, seq_len, dtype=getattr(torch, dtype))
        ids = torch.zeros(batch, seq_len, dtype=torch.int64)
        there = [*model.parameters(), *cache.layers, cache.real, cache.cos, cache.sin, ids]
        with Peak(there) as measured:
            model(ids, cache, last_only=True)
    assert 0.5 < measured.peak / Budget(config, 1, batch, seq_len, dtype).workspace <= 1


@pytest.mark.parametrize(
    ("chip", "quant", "unpacked"),
    [
        ("910B3", "int8", ()),
        ("910B3", "int4", ()),
        ("A3", "int4", ()),
        ("310P3", "int8", ()),
        ("310P3", "int4", ("blocks",)),
        ("910A", "int8", ("blocks", "head")),
        ("910A", "int4", ("blocks", "head")),
    ],
)
def test_weights_that_a_chip_cannot_multiply_packed_are_unpacked_at_each_use(chip, quant, unpacked):
    """Unpacked, a weight is written and read again each step, and the largest needs room; the head
    is int8 always.
    """
    found = plan(TWENTY_B, 8, seq_len=64, chip=chip, quant=quant).budget
    stay = replace(found, packed=("int8", "int4"))
    numbers = {"blocks": 44 * 12 * 6144**2 / 8, "head": 50432 * 6144 / 8}
    largest = {(): 0, ("blocks",): 24576 * 6144 / 8, ("blocks", "head"): 50432 * 6144 / 8}[unpacked]
    assert found.weights == stay.weights
    assert found.weights_read - stay.weights_read == 4 * sum(numbers[part] for part in unpacked)
    assert found.workspace - stay.workspace == 6 * largest
