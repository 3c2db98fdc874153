"""Mapped weights are copied into private memory, then into huge pages: no answer changes."""

import mmap
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from neoxlib import load
from neoxlib.checkpoint import resident
from neoxlib.checkpoint.load import load_into
from neoxlib.checkpoint.resident import (
    HUGE_PAGE_SIZE,
    Residency,
    allow_huge_pages,
    collapse_into_huge_pages,
)
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import FileTensor
from neoxlib.errors import WeightsError
from neoxlib.kernels.cpu import build
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from tests.support.oracle_models import make_oracle
from tests.support.thread_ranks import on_ranks

compiled = pytest.mark.skipif(
    build.compiled("forward") is None, reason=build.compile_error("forward")
)
IDS = torch.tensor([[5, 3, 60, 2], [9, 9, 1, 40]])


@pytest.fixture(scope="module", params=["safetensors", "bin", "cut for 2"])
def folder(request, tmp_path_factory):
    source, made = (tmp_path_factory.mktemp(name) for name in ("source", "made"))
    oracle = make_oracle()
    oracle.save_pretrained(source)
    if request.param == "bin":
        torch.save(oracle.state_dict(), source / "pytorch_model.bin")
        os.remove(source / "model.safetensors")
    if request.param == "cut for 2":
        shard(source, made / "cut", 2, progress=False)
    return made / "cut" if request.param == "cut for 2" else source


def held(residency: Residency) -> dict[str, torch.Tensor]:
    """The present values of the mapped parameters."""
    return {name: residency.model.get_parameter(name).data for name in residency.own}


def test_answers_before_and_after_the_copy_are_those_of_weights_that_were_read(folder, monkeypatch):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    engine = load(folder)
    residency = engine.residency
    before = engine.logits(IDS)
    pages = held(residency)
    residency._copy()
    after = engine.logits(IDS)
    own = held(residency)
    assert torch.equal(before, after)
    assert len(pages) > 10 and all(torch.equal(pages[name], own[name]) for name in pages)
    assert not {tensor.data_ptr() for tensor in pages.values()} & {
        tensor.data_ptr() for tensor in own.values()
    }
    model = GPTNeoX(engine.config)
    load_into(model, folder)
    assert all(torch.equal(tensor, model.get_parameter(name)) for name, tensor in own.items())


def test_what_another_thread_computes_with_meanwhile_stays_where_it_is(folder, monkeypatch):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    residency = load(folder).residency
    in_use = {name: residency.model.get_parameter(name) for name in residency.own}
    places = {name: weight.data_ptr() for name, weight in in_use.items()}
    residency._copy()
    assert places == {name: weight.data_ptr() for name, weight in in_use.items()}
    assert all(torch.equal(weight, residency.own[name]) for name, weight in in_use.items())


def test_after_the_copy_the_files_may_go(folder, tmp_path):
    copy = tmp_path / "model"
    os.system(f"cp -r {folder} {copy}")
    engine = load(copy)
    expected = engine.logits(IDS)
    engine.wait_until_resident()
    for file in [*copy.rglob("*.safetensors"), *copy.rglob("*.bin")]:
        file.write_bytes(b"")
    assert torch.equal(engine.logits(IDS), expected)
    assert not engine.residency.thread.is_alive()


@compiled
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_matrices_stand_in_for_wide_ones_to_the_bit_until_they_are_widened(
    dtype, size, tmp_path, monkeypatch
):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    oracle = make_oracle().to(dtype)
    oracle.save_pretrained(tmp_path)
    theirs = oracle.float()(IDS).logits

    def work(group: Group) -> None:
        engine, unhurried = (load(tmp_path, group=group, compile=True) for _ in range(2))
        unhurried.residency._copy()
        pages = held(engine.residency)
        assert {tensor.dtype for tensor in pages.values()} == {dtype} and {
            t.ndim for t in pages.values()
        } == {2}
        before = [engine.logits(IDS.repeat(n, 1)) for n in (1, 3, 20)]
        assert group.rank > 0 or torch.allclose(before[0], theirs, rtol=0, atol=1e-4)
        engine.residency._copy()
        assert all(
            torch.equal(tensor, pages[name].float())
            for name, tensor in held(engine.residency).items()
        )
        assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
        for n, logits in zip((1, 3, 20), before, strict=True):
            after = engine.logits(IDS.repeat(n, 1))
            expected = unhurried.logits(IDS.repeat(n, 1))
            assert group.rank > 0 or (torch.equal(logits, after) and torch.equal(logits, expected))

    on_ranks(size, work)


@compiled
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"quant": "int8"}, {"quant": "int4"}, {"dtype": "float16"}]
)
def test_ranks_that_have_settled_and_ranks_that_have_not_answer_to_the_bit_as_settled_ones(
    size, options, tmp_path, monkeypatch
):
    """An all-reduce in a weight's present dtype once added float16 bytes to float32 bytes."""
    monkeypatch.setattr(Residency, "start", lambda self: None)
    make_oracle(vocab_size=210, hidden_size=128, intermediate_size=256).half().save_pretrained(
        tmp_path
    )

    def work(group: Group) -> list[torch.Tensor | None]:
        answers = []
        for settled in range(1 << size):  # every choice of ranks
            engine = load(tmp_path, group=group, **options)
            if settled >> group.rank & 1:
                engine.residency._copy()
            answers.append(engine.logits(IDS))
        return answers

    *mixed, all_settled = on_ranks(size, work)[0]
    assert all(torch.equal(logits, all_settled) for logits in mixed)


def test_plain_operators_get_no_pages_of_files(folder):
    """Their sums may depend on alignment: MKL promises the same bits for aligned memory only."""
    assert not load(folder, compile=False).residency.own


@compiled
def test_a_rank_that_cannot_compile_leaves_all_ranks_on_plain_operators(folder, monkeypatch):
    real = build.compiled
    this = threading.local()
    monkeypatch.setattr(build, "compiled", lambda name: None if this.rank == 1 else real(name))

    def work(group: Group) -> tuple[str, torch.Tensor | None]:
        this.rank = group.rank
        engine = load(folder, group=group)
        return engine.describe()["compile"], engine.logits(IDS)

    (said, logits), (said_of_1, _) = on_ranks(2, work)
    assert said == said_of_1 == "plain: another rank cannot compile the kernels"
    assert torch.equal(logits, load_plain(folder))


def load_plain(folder: Path) -> torch.Tensor:
    return on_ranks(2, lambda group: load(folder, group=group, compile=False).logits(IDS))[0]


def test_weights_that_are_rounded_or_packed_are_read_at_once(folder):
    for options in ({"dtype": "bfloat16"}, {"quant": "int8"}):
        names = {name for name, _ in load(folder, **options).residency.model.named_parameters()}
        lent = set(load(folder, **options).residency.own)
        assert lent < names and not any(name.endswith("query_key_value.weight") for name in lent)


def test_a_copy_that_fails_leaves_the_model_on_the_pages(folder, monkeypatch, caplog):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    engine = load(folder)
    expected = engine.logits(IDS)
    monkeypatch.setattr(
        FileTensor, "_read_rows", lambda *_: (_ for _ in ()).throw(OSError("a worn disk"))
    )
    engine.residency._copy()
    assert (
        "stay mapped from their files, since they could not be copied: a worn disk" in caplog.text
    )
    assert torch.equal(engine.logits(IDS), expected)


def test_a_closed_engine_copies_no_further(folder, monkeypatch):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    engine = load(folder)
    pages = held(engine.residency)
    engine.close()
    engine.residency._copy()
    assert all(
        tensor.data_ptr() == pages[name].data_ptr()
        for name, tensor in held(engine.residency).items()
    )


def in_place(path: Path, data: bytes) -> None:
    """As another program writes to a file, of which the inode stays."""
    with path.open("r+b") as file:
        file.truncate(len(data))
        file.write(data)


CHANGES = {
    "cut": lambda data: data[: len(data) // 3],
    "emptied": lambda data: b"",
    "overwritten": lambda data: data[:-4096] + bytes(4096),
}


@compiled
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_another_program_changes_while_they_are_mapped_are_told(
    folder, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    engine = load(copy)
    engine.logits(IDS)
    path = sorted(engine.residency.files.before)[0]
    in_place(path, CHANGES[change](path.read_bytes()))
    calls = [
        lambda: engine.logits(IDS),
        lambda: engine.generate([[5, 9]], max_new_tokens=2),
        lambda: engine.score_ids([([5], [9])]),
        lambda: engine.activations([[5, 9]], ["gpt_neox.layers.0"]),
    ]
    for call in calls:
        with pytest.raises(WeightsError, match=f"{path.name}.*rename it"):
            call()
    engine.residency._copy()  # what it reads now is not what was loaded
    with pytest.raises(WeightsError, match=path.name):
        engine.logits(IDS)


@compiled
def test_weights_that_are_replaced_deleted_or_cut_after_the_copy_change_no_answer(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(Residency, "start", lambda self: None)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    engine = load(copy)
    expected = engine.logits(IDS)
    path = sorted(engine.residency.files.before)[0]
    whole = path.read_bytes()
    path.with_suffix(".new").write_bytes(b"x" * len(whole))
    path.with_suffix(".new").rename(path)
    assert torch.equal(engine.logits(IDS), expected)
    path.unlink()
    assert torch.equal(engine.logits(IDS), expected)
    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    engine = load(copy)
    engine.residency._copy()
    in_place(path, b"")
    assert torch.equal(engine.logits(IDS), expected)


@compiled
def test_weights_that_change_while_they_are_read_are_refused(folder, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    real = resident.FileStates

    def late(files):
        found = real(files)
        for file in files:
            in_place(file, file.read_bytes())
        return found

    monkeypatch.setattr("neoxlib.checkpoint.load.FileStates", late)
    with pytest.raises(WeightsError, match="was written to"):
        load(copy)


def test_huge_pages_hold_the_same_bytes_in_the_same_place():
    block = torch.arange(1 << 20, dtype=torch.int64)  # 8 MB
    place = block.data_ptr()
    came = collapse_into_huge_pages(block)
    assert torch.equal(block, torch.arange(1 << 20)) and block.data_ptr() == place
    assert came % 4096 == 0 and came <= block.nbytes


def test_memory_that_is_touched_later_comes_in_huge_pages():
    fresh = mmap.mmap(
        -1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # malloc may give what was touched before
    block = torch.frombuffer(fresh, dtype=torch.uint8)
    if not allow_huge_pages(block) or "[never]" in HUGE_PAGE_SIZE.with_name("enabled").read_text():
        pytest.skip("this kernel has no huge pages, or they are disabled")
    before = huge_page_bytes(block)
    assert huge_page_bytes(block.fill_(7)) - before >= 32 << 20


def huge_page_bytes(block: torch.Tensor) -> int:
    """Bytes in huge pages of the mapping around the middle of `block`, from proc(5)'s smaps."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, last = (int(end, 16) for end in re.match(r"(\w+)-(\w+)", mapping).groups())
        if first <= block.data_ptr() + block.nbytes // 2 < last:
            return int(re.search(r"AnonHugePages: *(\d+) kB", mapping)[1]) << 10
    raise AssertionError("no mapping holds the block")


def test_huge_pages_are_not_asked_for_once_it_has_ended():
    assert collapse_into_huge_pages(torch.ones(1 << 20), lambda: True) == 0


def test_without_huge_pages_nothing_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("neoxlib.checkpoint.resident.HUGE_PAGE_SIZE", tmp_path / "missing")
    assert collapse_into_huge_pages(torch.ones(1 << 20)) == 0
