"""Calls of `shard` that must fail."""

import pytest

from neoxlib.checkpoint.shard import shard


def refused(error: type[Exception], words: str, *args: object, **options: object) -> None:
    with pytest.raises(error, match=words):
        shard(*args, **options)
