"""The journal of a cut, and the check for free space."""

import shutil

import pytest

from neoxlib.checkpoint.durable import CutJournal, differences
from neoxlib.checkpoint.manifest import JOURNAL
from neoxlib.errors import ShardError
from tests.support.shard_calls import refused


def test_a_journal_outlives_kills_in_the_middle_of_a_line(tmp_path):
    entry = {"bytes": 1, "sha256": "ab"}
    request = {"world_size": 2}
    for n in range(3):
        journal = CutJournal(tmp_path / JOURNAL, request)
        assert journal.done == {str(i): entry for i in range(n)}
        journal.record(str(n), entry)
        journal.close()
        with (tmp_path / JOURNAL).open("a") as file:
            file.write('{"file": "part_mo')


def test_a_damaged_journal_is_an_error(source, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / JOURNAL).write_text("not json\n")
    refused(ShardError, "is damaged .* cut anew", source, cut, 2)


@pytest.mark.parametrize("there", [0.5, None, ["a"], {}])
def test_a_record_of_files_that_is_none_differs_in_every_file(there):
    said = differences({"source_files": there}, {"source_files": {"a": 1, "b": 2}})
    assert said.startswith("source_files have changed since, or are copies: a, b; ask for the same")


def test_a_disk_without_room_is_refused_with_both_numbers(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    refused(ShardError, r"needs \d+kB, the disk has 300kB free", source, tmp_path / "a" / "cut", 2)
    assert not (tmp_path / "a").exists()
