"""Loaded libraries beside installed ones."""

from pathlib import Path

from neoxlib.machine.libraries import compare, installed_here, loaded_here, paths_of, text

MAPS = """\
7f00-7f01 r-xp 00000000 08:01 12 /opt/cann/lib64/libhccl.so
7f01-7f02 r--p 00000000 08:01 12 /opt/cann/lib64/libhccl.so
7f02-7f03 r-xp 00000000 08:01 13 /usr/lib/libgomp-a34b3233.so.1.0.0
7f03-7f04 rw-p 00000000 00:00 0 [heap]
7f04-7f05 r--p 00000000 08:01 14 /usr/share/locale.archive
""".splitlines()


def test_the_libraries_of_a_process_are_those_of_its_maps_each_once():
    assert paths_of(MAPS) == ["/opt/cann/lib64/libhccl.so", "/usr/lib/libgomp-a34b3233.so.1.0.0"]


def test_a_library_that_is_loaded_twice_or_installed_elsewhere_stands_out():
    rows = compare(
        ["/a/libgomp-a34b3233.so.1", "/b/libgomp.so.1", "/a/libhccl.so", "/a/libm.so.6"],
        ["/b/libgomp.so.1", "/c/libhccl.so", "/c/libatb.so", "/c/libm.so.6"],
    )
    found = {row.name: row.verdict for row in rows}
    assert found == {
        "libgomp": "LOADED TWICE",
        "libhccl": "1 other(s) installed",
        "libatb": "not loaded",
    }


def test_two_names_of_one_file_are_one_place(tmp_path: Path):
    (tmp_path / "libhccl.so.1").touch()
    (tmp_path / "libhccl.so").symlink_to("libhccl.so.1")
    paths = [str(tmp_path / name) for name in ("libhccl.so", "libhccl.so.1")]
    (row,) = compare(paths, paths)
    assert row.verdict == "ok"


def test_the_folders_of_cann_are_looked_through(tmp_path: Path):
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libascendcl.so").touch()
    found = installed_here({"ASCEND_HOME_PATH": str(tmp_path)})
    assert str(tmp_path / "lib64" / "libascendcl.so") in found


def test_a_child_process_imports_torch_and_says_what_stopped_it():
    said, loaded = loaded_here()
    assert said[0].startswith("imported torch ") and "torch_npu" in said[1]
    assert any("libtorch_cpu" in path for path in loaded)


def test_the_text_names_each_place():
    assert "libc10: " in text() and "  loaded    /" in text()
