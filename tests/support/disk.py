"""A disk that is full."""

import errno
import os
from typing import NoReturn

import pytest


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every fsync fail, which is where a full disk may be found."""

    def fail(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
