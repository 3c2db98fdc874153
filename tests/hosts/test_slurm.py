"""Nodes of Slurm, whose commands are small scripts here; `make verify-hosts` has a real one."""

import sys

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts.slurm import Allocation, Partition, check_partition, node_names
from neoxlib.hosts.ways import Srun
from tests.support.programs import programs

# As sinfo: the nodes of the partition npu, or the names of all partitions.
SINFO = """\
case "$*" in
  *"%R"*) printf 'npu\\nlong\\n' ;;
  *"npu "*) printf '{nodes}' ;;
esac"""
# As salloc: options, then a command that runs in the job.
SALLOC = """\
while [ "${1#--}" != "$1" ]; do shift; done
echo "salloc: Granted job allocation 7" >&2
export SLURM_JOB_ID=7 SLURM_JOB_NODELIST='node[1-2]'
"$@"
echo over > {folder}/over"""
SCONTROL = r"printf 'node1\nnode2\n'"
TWO = Partition("npu", 2, 4)


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no job, whatever these tests are run by."""
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("nodes", "status", "found"),
    [
        (r"node1 idle\nnode2 idle\n", "OK", "2 of 2 nodes idle"),
        (r"node1 idle\nnode2 comp\nnode3 down*\n", "OK", "2 of 3 nodes idle"),
        (r"node1 idle\nnode2 alloc\n", "FAIL", "1 of 2 nodes idle; node2 alloc"),
        (r"node1 idle*\nnode2 drain\n", "FAIL", "0 of 2 nodes idle; node1 idle*, node2 drain"),
        (r"node1 idle\n", "FAIL", "1 of 1 nodes idle"),
        ("", "FAIL", "no such partition; there are long, npu"),
    ],
)
def test_a_partition_needs_as_many_idle_nodes_as_are_asked_for(
    tmp_path, monkeypatch, nodes, status, found
):
    programs(tmp_path, monkeypatch, sinfo=SINFO.replace("{nodes}", nodes))
    row = check_partition(TWO)
    assert (row.check, row.status) == ("partition", status) and row.found.startswith(found)
    assert bool(row.repair) == (status == "FAIL") and row.needed == "2 idle nodes"


def test_a_machine_without_slurm_or_a_slurm_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sinfo is not in PATH" in check_partition(TWO).found
    programs(tmp_path, monkeypatch, sinfo="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in check_partition(TWO).found


def test_a_job_of_its_own_has_its_nodes_and_ends_with_close(tmp_path, monkeypatch):
    salloc = SALLOC.replace("{folder}", str(tmp_path))
    programs(tmp_path, monkeypatch, salloc=salloc, scontrol=SCONTROL)
    job = Allocation(TWO)
    job.wait()
    assert (job.job, job.nodes, job.own) == ("7", ("node1", "node2"), True)
    assert not (tmp_path / "over").exists()
    job.close()
    assert (tmp_path / "over").exists()
    job.close()  # may be called again


def test_slurms_own_words_are_told_when_it_gives_no_nodes(tmp_path, monkeypatch):
    refuses = "echo 'salloc: error: Invalid account' >&2; exit 1"
    programs(tmp_path, monkeypatch, salloc=refuses)
    with pytest.raises(SettingsError, match=r"no 2 nodes of partition npu: .*Invalid account"):
        Allocation(TWO).wait()


def test_inside_a_job_its_nodes_are_taken_and_none_is_asked_for(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, salloc="exit 9", scontrol=SCONTROL)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    job = Allocation(TWO)
    job.wait()
    assert (job.job, job.nodes, job.own) == ("8", ("node1", "node2"), False)
    job.close()
    with pytest.raises(SettingsError, match=r"job 8 has 2 nodes, node1, node2, and 3 are needed"):
        Allocation(Partition("npu", 3, 1)).wait()


def test_the_nodes_of_a_list_are_named_by_slurm(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, scontrol='echo "$3" | tr , "\\n"')
    assert node_names("a,b") == ("a", "b")


def test_a_step_runs_one_unbound_process_on_its_node():
    words = Srun("7", "npu").reach("node1", [sys.executable, "-c", "a b"])
    assert words[0] == "srun" and words[-3:] == [sys.executable, "-c", "a b"]
    assert {"--jobid=7", "--nodelist=node1", "--ntasks=1", "--overlap"} < set(words)
    assert Srun("7", "npu").typed("node1") == "srun -p npu -w node1"
