"""The folder of the runs of a test."""

from pathlib import Path

import pytest


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs that a test makes."""
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"
