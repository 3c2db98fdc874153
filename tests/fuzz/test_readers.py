"""Files that were spoilt by structure: every reader returns, or raises an error of neoxlib.

`make fuzz` looks for longer, guided by coverage: what it found is in found/, and inputs that
reached much code in corpora/; both are read here as well.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neoxlib.errors import NeoXError
from tests.fuzz.bounds import bounded
from tests.fuzz.mutate import picker
from tests.fuzz.readers import READERS, Reader

FOUND = Path(__file__).with_name("found")
CORPORA = Path(__file__).with_name("corpora")
EXAMPLES = 12
MOST_INPUTS = 12  # of a corpus
QUIETLY = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", params=READERS, ids=lambda reader: reader.name)
def laid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reader, Path, list[bytes]]:
    """A reader, a folder with its valid files, and those of them that are spoilt."""
    folder = tmp_path_factory.mktemp(request.param.name)
    return request.param, folder, request.param.make(folder)


def refused(read: Callable[[Path, bytes], object], folder: Path, data: bytes) -> str:
    """The message of neoxlib's error, or nothing if the file was read."""
    try:
        with bounded():
            read(folder, data)
    except NeoXError as error:
        return str(error).encode().decode()  # it can be printed
    return ""


@pytest.mark.filterwarnings("ignore")
def test_a_valid_file_is_read(laid):
    reader, folder, seeds = laid
    assert [refused(reader.read, folder, seed) for seed in seeds] == [""] * len(seeds)


@pytest.mark.filterwarnings("ignore")
def test_a_spoilt_file_is_read_or_refused_in_our_words(laid):
    reader, folder, seeds = laid

    @QUIETLY
    @given(st.data())
    def check(data: st.DataObject) -> None:
        def pick(count: int) -> int:
            return data.draw(st.integers(0, count - 1))

        refused(reader.read, folder, reader.spoil(seeds[pick(len(seeds))], pick))

    check()


@pytest.mark.filterwarnings("ignore")
def test_what_once_ended_in_a_traceback_is_refused_in_our_words(laid):
    reader, folder, _ = laid
    for path in sorted((FOUND / reader.name).glob("*")):
        refused(reader.read, folder, path.read_bytes())


@pytest.mark.filterwarnings("ignore")
def test_inputs_that_once_reached_new_code_are_read_or_refused_in_our_words(laid):
    reader, folder, seeds = laid
    path = CORPORA / f"{reader.name}.json"
    inputs = json.loads(path.read_text()) if path.exists() else []
    for one in inputs[:: 1 + len(inputs) // MOST_INPUTS]:
        pick = picker(bytes.fromhex(one))
        refused(reader.read, folder, reader.spoil(seeds[pick(len(seeds))], pick))
