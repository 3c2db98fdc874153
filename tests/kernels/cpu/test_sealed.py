"""A library is loaded only as it was compiled, and only from where nobody else can write."""

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from neoxlib.kernels.cpu import build, sealed

ANSWER = 'extern "C" int answer() { return %d; }\n'
KEY = "0123456789abcdef"
NOBODY = 65534


def compile_answer(folder: Path, value: int) -> Path:
    """An unsealed library with one function; skips where there is no compiler."""
    try:
        compiler = build._compiler()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    source = folder / f"answer{value}.cpp"
    source.write_text(ANSWER % value)
    target = source.with_suffix(".so")
    build._run([*compiler, "-shared", "-fPIC", str(source), "-o", str(target)])
    return target


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    return compile_answer(tmp_path_factory.mktemp("compiled"), 42)


@pytest.fixture
def library(tmp_path, compiled) -> Path:
    """A sealed library in a cache of its own."""
    folder = tmp_path / "cache" / KEY
    folder.mkdir(parents=True, mode=0o755)
    path = shutil.copy(compiled, folder / "answer.so")
    sealed.seal(path, KEY)
    return path


def test_a_sealed_library_is_loaded_and_works(library):
    assert sealed.load(library, KEY).answer() == 42


def test_what_is_not_there_is_not_loaded(tmp_path):
    assert sealed.load(tmp_path / "cache" / KEY / "answer.so", KEY) is None


def test_a_library_that_was_cut_is_never_loaded(library):
    data = library.read_bytes()
    for percent in range(2, 100, 2):
        library.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(sealed.UnfitError, match="is damaged"):
            sealed.load(library, KEY)


def test_a_library_with_a_flipped_bit_or_a_zeroed_block_is_never_loaded(library):
    data = library.read_bytes()
    for at in [*range(0, len(data), 97), len(data) - 1]:
        for changed in (bytes([data[at] ^ 1]), bytes(4096)[: len(data) - at]):
            if data[at : at + len(changed)] == changed:
                continue  # the block was of zeros
            library.write_bytes(data[:at] + changed + data[at + len(changed) :])
            with pytest.raises(sealed.UnfitError, match="is damaged"):
                sealed.load(library, KEY)


def test_a_planted_library_is_never_loaded(library, tmp_path):
    other = compile_answer(tmp_path, 43)
    shutil.copy(other, library)
    with pytest.raises(sealed.UnfitError, match="is damaged"):
        sealed.load(library, KEY)
    sealed.seal(library, "another key")
    with pytest.raises(sealed.UnfitError, match="is damaged"):
        sealed.load(library, KEY)


def test_a_link_is_not_followed_and_a_fifo_not_waited_for(library, tmp_path):
    shutil.move(library, tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(sealed.UnfitError, match="is a link"):
        sealed.load(library, KEY)
    library.unlink()
    os.mkfifo(library)
    with pytest.raises(sealed.UnfitError, match="is not a regular file"):
        sealed.load(library, KEY)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o722])
def test_a_file_that_others_can_write_to_is_not_loaded(library, mode):
    library.chmod(mode)
    with pytest.raises(sealed.UnfitError, match=f"mode {mode:o}.*chmod go-w"):
        sealed.load(library, KEY)


@pytest.mark.parametrize("level", [0, 1], ids=["folder", "cache"])
def test_a_folder_that_others_can_write_to_is_not_used(library, level):
    folder = library.parents[level]
    folder.chmod(0o777)
    assert sealed.load(library, KEY) is None
    with pytest.raises(sealed.UnfitError, match=r"mode 777.*chmod go-w"):
        sealed.check_folder(folder)


@pytest.mark.parametrize("level", [0, 1], ids=["folder", "cache"])
def test_a_folder_behind_a_link_is_not_used(library, tmp_path, level):
    folder = library.parents[level]
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert library.exists() and sealed.load(library, KEY) is None
    with pytest.raises(sealed.UnfitError, match="is a link"):
        sealed.check_folder(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_used(library):
    os.chown(library, NOBODY, NOBODY)
    with pytest.raises(sealed.UnfitError, match=f"belongs to user {NOBODY}, not to user 0"):
        sealed.load(library, KEY)
    os.chown(library, 0, 0)
    for folder in library.parents[:2]:
        os.chown(folder, NOBODY, NOBODY)
        assert sealed.load(library, KEY) is None
        with pytest.raises(sealed.UnfitError, match=f"belongs to user {NOBODY}"):
            sealed.check_folder(folder)
        os.chown(folder, 0, 0)


def test_two_libraries_of_one_name_are_two_libraries(library, tmp_path):
    first = sealed.load(library, KEY)
    other = shutil.copy(compile_answer(tmp_path, 43), library.with_suffix(".new"))
    sealed.seal(other, KEY)
    os.rename(other, library)
    second = sealed.load(library, KEY)
    assert isinstance(first, ctypes.CDLL) and (first.answer(), second.answer()) == (42, 43)
