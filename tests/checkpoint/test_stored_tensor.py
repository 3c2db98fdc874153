"""Tensors joined from pieces. Oracle: slices of the whole tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from neoxlib.checkpoint import tensor_file
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.checkpoint.tensor_file import read_header


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_box_of_any_join_of_pieces_equals_the_slice_of_the_whole_tensor(tmp_path_factory, data):
    """Cut along 0, 1 or not at all, in pieces and blocks of any size, into any dtype."""
    folder = tmp_path_factory.mktemp("box")
    height = data.draw(st.integers(1, 9))
    width = data.draw(st.integers(1, 9))
    full = torch.randn(height, width).to(data.draw(st.sampled_from((torch.float32, torch.float16))))
    dim = data.draw(st.sampled_from((None, 0, 1)))
    ends = (
        []
        if dim is None
        else sorted(data.draw(st.lists(st.integers(0, full.shape[dim]), max_size=3)))
    )
    parts = torch.tensor_split(full, ends, dim or 0)
    for i, part in enumerate(parts):
        save_file({"w": part.contiguous()}, folder / f"{i}.safetensors")
    stored = StoredTensor(
        tuple(read_header(folder / f"{i}.safetensors")[0]["w"] for i in range(len(parts))), dim
    )
    rows, columns = (
        slice(*sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))))
        for n in full.shape
    )
    out = torch.full(
        (rows.stop - rows.start, columns.stop - columns.start), 9.0, dtype=torch.float32
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_file, "BLOCK", data.draw(st.sampled_from((1, 40, 1000))))
        stored.read_into(out, (rows, columns))
    assert torch.equal(out, full[rows, columns].float())
