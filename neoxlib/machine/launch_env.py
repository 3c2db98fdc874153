"""The environment variables that ranks start with: the recipe's, without those the user exported.

A variable that is exported wins over the recipe. A value that would end every rank is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neoxlib.errors import SettingsError
from neoxlib.machine import chips
from neoxlib.machine.chips import Chip
from neoxlib.machine.hccl_rules import refuse_ranks
from neoxlib.machine.recipe import ALLOCATOR, RECIPE, Launch, Setting
from neoxlib.machine.versions import ERAS

NEW_ALLOCATOR = "PYTORCH_ALLOC_CONF"  # read by torch_npu since 26.2, for torch 2.10 and later
NONE: Mapping[str, str] = {}


def launch_env(
    chip: Chip | str,
    world_size: int,
    container: bool = False,
    deterministic: bool = False,
    backend: str = "hccl",
    max_seq_len: int | None = None,
    device_ids: Sequence[int] | None = None,
    preload: str = "",
    era: str = "today",
    exported: Mapping[str, str] = NONE,
    here: int | None = None,
    servers: int = 1,
) -> dict[str, str]:
    """Return the variables to add to `exported` for ranks on `chip`, a row of CHIPS or its name.

    `device_ids` become ASCEND_RT_VISIBLE_DEVICES (one per rank), `preload` is the libgomp path
    that aarch64 may need, `era` "guide" takes the guide's own values. What `exported` holds is
    left out, except for ids and a length that are asked for. `here` of the ranks, by default all,
    are on this one of `servers`. Raises SettingsError for values that are unknown or impossible,
    that HCCL does not serve, or that end every rank.
    """
    chip = chips.chip(chip) if isinstance(chip, str) else chip
    _check(chip, world_size, backend, era)
    _refuse_exported(chip, world_size, exported)
    refuse_ranks(chip, world_size, here=here, servers=servers, ids=_ids(device_ids, exported))
    at = Launch(chip, world_size, container, deterministic, backend, era)
    wanted = {row.name: row.value for row in recipe_rows(at, exported)} | _given(preload)
    added = {name: wanted[name] for name in wanted if name not in exported}
    return added | _asked(chip, world_size, max_seq_len, device_ids)


def _given(preload: str) -> dict[str, str]:
    return {"LD_PRELOAD": preload} if preload else {}


def _asked(
    chip: Chip, world_size: int, max_seq_len: int | None, device_ids: Sequence[int] | None
) -> dict[str, str]:
    """Return the variables that parameters ask for, which replace exported ones."""
    asked = {} if max_seq_len is None else {"MAX_SEQ_LEN": str(max_seq_len)}
    if device_ids is not None and chip.name != "cpu":
        asked["ASCEND_RT_VISIBLE_DEVICES"] = _visible(device_ids, world_size)
    return asked


def recipe_rows(at: Launch, exported: Mapping[str, str] = NONE) -> tuple[Setting, ...]:
    """Return the rows of RECIPE that apply.

    Without the allocator's row if PYTORCH_ALLOC_CONF is exported: torch_npu ends when both are set
    (torch_npu 9e73e708, torch_npu/csrc/core/npu/NPUAllocatorConfig.cpp:52-55).
    """
    rows = (row for row in RECIPE if row.when(at))
    return tuple(row for row in rows if row.name != ALLOCATOR or NEW_ALLOCATOR not in exported)


def kept(
    added: Mapping[str, str], at: Launch, exported: Mapping[str, str] = NONE
) -> dict[str, str]:
    """Return the exported variables that stand in the place of a row of the recipe."""
    names = [row.name for row in recipe_rows(at) if row.name not in added]
    if NEW_ALLOCATOR in exported and ALLOCATOR in names:
        names.append(NEW_ALLOCATOR)
    return {name: exported[name] for name in names if name in exported}


@dataclass(frozen=True)
class Conflict:
    """An exported value that ends every rank: its condition and the reason with its source."""

    name: str
    value: str | None  # None: any
    families: tuple[str, ...]
    beside: str | None  # only if this variable is exported, too
    unless: str | None  # not if this one is
    why: str


_ALL = ("A2", "A3", "310P", "910A", "310B", "950", "unknown")
CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        NEW_ALLOCATOR,
        None,
        _ALL,
        ALLOCATOR,
        None,
        f"torch_npu ends when {ALLOCATOR} is set beside it "
        "(torch_npu 9e73e708, torch_npu/csrc/core/npu/NPUAllocatorConfig.cpp:52)",
    ),
    Conflict(
        "INF_NAN_MODE_ENABLE",
        "0",
        ("A2", "A3"),
        None,
        "INF_NAN_MODE_FORCE_DISABLE",
        "0 is an error on this chip "
        "(torch_npu 9e73e708, torch_npu/csrc/core/npu/NpuVariables.cpp:83-88)",
    ),
    Conflict(
        "BACKEND", "lccl", ("310P",), None, None, "310P has no lccl (the vendor's guide: delete it)"
    ),
)


def conflicts(exported: Mapping[str, str], families: set[str]) -> dict[str, str]:
    """Return each exported variable that cannot stay on chips of `families`, and the reason."""
    return {
        one.name: one.why
        for one in CONFLICTS
        if one.name in exported
        and one.value in (None, exported[one.name])
        and families & set(one.families)
        and (one.beside is None or one.beside in exported)
        and one.unless not in exported
    }


def _refuse_exported(chip: Chip, world_size: int, exported: Mapping[str, str]) -> None:
    bad = conflicts(exported, {chip.family})
    if world_size == 1:
        bad.pop("BACKEND", None)
    if bad:
        said = "; ".join(f"{name}={exported[name]}: {why}" for name, why in bad.items())
        raise SettingsError(
            f"ranks on {chip.name} would end at once. {said}. unset {' '.join(bad)}"
        )


def _check(chip: Chip, world_size: int, backend: str, era: str) -> None:
    if era not in ERAS:
        raise SettingsError(f"era is {era!r}; choose {' or '.join(ERAS)}")
    if type(world_size) is not int or world_size < 1:
        raise SettingsError(f"world_size is {world_size!r}; it is the number of ranks, 1 or more")
    if chip.name != "cpu" and chip.collectives and backend not in chip.collectives:
        rather = " or ".join(chip.collectives)
        raise SettingsError(f"{chip.name} has no {backend}; use {rather}")


def _ids(given: Sequence[int] | None, exported: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the chips of the ranks: as given, else as exported; None if neither names any."""
    if given is not None:
        return tuple(given)
    named = exported.get("ASCEND_RT_VISIBLE_DEVICES", "")
    return tuple(map(int, named.split(","))) if re.fullmatch(r"\d+(,\d+)*", named) else None


def _visible(ids: Sequence[int], world_size: int) -> str:
    if list(ids) != sorted(set(ids)) or len(ids) != world_size or min(ids, default=-1) < 0:
        raise SettingsError(
            f"device ids {list(ids)} do not name one card for each of {world_size} ranks in "
            "strictly ascending order, e.g. 0,1,2,3 (torch_npu sees no device otherwise)"
        )
    return ",".join(str(i) for i in ids)
