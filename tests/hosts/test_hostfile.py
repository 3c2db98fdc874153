"""Hostfiles of MPI: hosts and how many ranks each takes."""

from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts.hostfile import read_hostfile

BOTH = """\
# of Open MPI
host1 slots=4
host2 slots = 2 max_slots=8   # a rest

u@host3.example.org:3
10.77.0.9:1 ifname=hpc0
host1 slots=1
host4
"""


def read(tmp_path: Path, text: str) -> dict[str, int]:
    path = tmp_path / "hostfile"
    path.write_text(text)
    return read_hostfile(str(path))


def test_both_forms_are_read_in_their_order_and_lines_of_a_host_add_up(tmp_path: Path):
    found = read(tmp_path, BOTH)
    assert list(found.items()) == [
        ("host1", 5),
        ("host2", 2),
        ("u@host3.example.org", 3),
        ("10.77.0.9", 1),
        ("host4", 1),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("host1 slots=0", "slots=0 is no number of ranks"),
        ("host1 slots=two", "slots=two is no number"),
        ("host1 slots=", "slots= is no number"),
        ("host1:2 slots=2", "host1 has two numbers"),
        ("host1 colour=red", "'colour=red' is not known"),
        ("host1 host2", "'host2' is not known"),
        ("host1:x", "'host1:x' is no host"),
        ("-oProxyCommand=x", "is no host"),
        ("host1;rm", "is no host"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_what_to_write(tmp_path, line, told):
    with pytest.raises(SettingsError, match=f"hostfile:2: .*{told}.*slots=4, or host1:4"):
        read(tmp_path, f"good slots=1\n{line}\n")


def test_all_bad_lines_are_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"hostfile:1: .*; .*hostfile:3: "):
        read(tmp_path, "a slots=x\nb slots=2\nc:0\n")


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_file_without_a_host_is_refused(tmp_path: Path, text: str):
    with pytest.raises(SettingsError, match="names no host"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"hostfile .*nowhere cannot be read"):
        read_hostfile(str(tmp_path / "nowhere"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="binary cannot be read"):
        read_hostfile(str(tmp_path / "binary"))
