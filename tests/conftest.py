"""Shared oracles: tiny random checkpoints that transformers made, and where real test material
lies.
"""

import os
from pathlib import Path

import pytest
import torch

from tests.support.oracle_models import make_oracle, save_tokenizer

torch.set_num_threads(1)  # also for what modules set up
DATA = Path(os.environ.get("NEOXLIB_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever an earlier test left: sums over threads are taken in another order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real test material; tests that need it are skipped, with this reason, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test material at {DATA}: set NEOXLIB_TEST_DATA to its folder")
    return DATA


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: a tiny random model of 300 rows, a byte-level tokenizer
    of 257 ids.
    """
    folder = tmp_path_factory.mktemp("checkpoint")
    make_oracle(vocab_size=300).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
