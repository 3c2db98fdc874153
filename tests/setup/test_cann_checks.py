"""The checks of CANN, torch_npu and ATB, on described machines with one fault each."""

from dataclasses import replace

import pytest

from tests.support.hosts import A2, CPU, SOURCED, faults, rows


def test_torch_npu_without_cann_is_named_as_what_breaks_import_torch():
    """On such a machine `import torch` itself fails; the cure for CPU work is one variable."""
    for machine in (replace(CPU, torch_npu="2.13.0"), replace(A2, env={})):
        row = rows(machine)["torch_npu"]
        assert row.status == "FAIL" and "import torch" in row.needed
        assert (
            "set_env.sh" in row.repair
        ) == machine.has_npu and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in row.repair


def test_torch_npu_that_is_kept_out_is_fine_on_the_cpu_and_a_warning_beside_an_npu():
    out = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert faults(replace(CPU, torch_npu="2.13.0", env=out)) == {}
    assert rows(replace(A2, env=out))["torch_npu"].status == "WARN"


def test_cann_that_is_not_sourced_names_the_script_that_is_there():
    row = rows(replace(A2, env={}, set_env=("/opt/Ascend/cann-9.1.0/set_env.sh",)))["CANN toolkit"]
    assert row.status == "FAIL" and "source /opt/Ascend/cann-9.1.0/set_env.sh" in row.repair


@pytest.mark.parametrize("env", [{"ASCEND_HOME_PATH": "/x"}, SOURCED])
def test_atb_is_never_asked_for_since_no_operator_of_it_is_called(env):
    row = rows(replace(A2, env=env))["ATB (NNAL)"]
    assert row.status == "OK" and not row.repair and "no operator of ATB" in row.needed
    assert row.found == ("sourced" if "ATB_HOME_PATH" in env else "not sourced")


@pytest.mark.parametrize("scripts", [(), ("/usr/local/Ascend/ascend-toolkit/set_env.sh",)])
def test_cann_that_is_not_sourced_is_sourced_by_the_script_that_its_version_has(scripts):
    row = rows(replace(A2, env={}, set_env=scripts))["torch_npu"]
    assert f"source {(*scripts, '/usr/local/Ascend/cann/set_env.sh')[0]}" in row.repair


def test_cann_that_is_not_there_is_told_from_cann_that_is_not_sourced():
    row = rows(replace(A2, env={}, set_env=()))["CANN toolkit"]
    assert (
        row.status == "FAIL"
        and "Ascend-cann-toolkit_9.1.0_linux-x86_64.run --install" in row.repair
    )


@pytest.mark.parametrize(
    ("changes", "row", "status", "word"),
    [
        ({"torch_npu": None}, "torch_npu", "FAIL", "torch-npu==2.13.0"),
        ({"packages": {"torch": "2.13.0+cu130"}}, "torch_npu", "FAIL", "torch==2.13.0 --index-url"),
        ({"torch_npu": "2.10.0.post4"}, "pairing", "FAIL", "pip install torch-npu==2.13.0"),
        ({"torch_npu": "2.13.0.post1"}, "pairing", "OK", ""),
        ({"torch_npu": "7.0"}, "pairing", "WARN", "torch-npu==2.13.0"),
        ({"cann": "8.5.0"}, "pairing", "FAIL", "Ascend-cann-toolkit_9.1.0"),
        ({"cann": "9.2.0"}, "pairing", "OK", ""),
        ({"cann": None}, "pairing", "OK", ""),
        ({"python": "3.9.18"}, "pairing", "FAIL", "conda env create"),
        ({"torch_npu": "2.9.0.post6", "cann": "9.1.0"}, "pairing", "FAIL", "torch-npu==2.13.0"),
        (
            {"torch_npu": "2.9.0.post6", "packages": {"torch": "2.9.0"}, "cann": "9.0.0"},
            "pairing",
            "FAIL",
            "torch-npu==2.9.0.post2",
        ),
        (
            {
                "torch_npu": "2.0.1.post1",
                "packages": {"torch": "2.0.1"},
                "cann": "7.0.0",
                "python": "3.9.18",
            },
            "pairing",
            "OK",
            "",
        ),
        (
            {"cann_kernels": None},
            "CANN kernels",
            "WARN",
            "Ascend-cann-910b-ops_9.1.0_linux-x86_64.run",
        ),
        ({"cann_kernels": "9.0.0"}, "CANN kernels", "FAIL", "Ascend-cann-910b-ops_9.1.0"),
        (
            {"cann_needs": ("attrs", "scipy")},
            "CANN's Python packages",
            "FAIL",
            "pip install attrs scipy",
        ),
        (
            {"driver": None},
            "driver",
            "WARN",
            "Ascend-hdk-910b-npu-driver_*_linux-x86_64.run --full",
        ),
        ({"driver": None, "container": "docker"}, "driver", "WARN", "-v /usr/local/Ascend/driver"),
        (
            {"firmware": "6.4.0.4.220"},
            "firmware",
            "FAIL",
            "Ascend-hdk-910b-npu-firmware_*.run --full && reboot",
        ),
        ({"firmware": None}, "firmware", "WARN", "npu-firmware_*.run"),
        ({"driver_takes": None}, "firmware", "OK", ""),
    ],
)
def test_each_fault_of_the_software_below_gives_its_row_and_its_command(changes, row, status, word):
    found = rows(replace(A2, **changes))[row]
    assert (
        found.status == status and word in found.repair and bool(found.repair) == (status != "OK")
    )


def test_a_torch_npu_that_does_not_say_its_version_is_not_judged_by_the_table():
    assert "pairing" not in rows(replace(A2, torch_npu=""))


def test_atb_of_another_abi_than_torchs_is_told():
    """Its set_env.sh asks torch; sourced in a shell that had none, it takes a guess."""
    env = SOURCED | {"ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_0"}
    row = rows(replace(A2, env=env, cxx11_abi=True))["C++ ABI"]
    assert row.status == "FAIL" and row.repair.endswith("--cxx_abi=1")
    assert rows(replace(A2, env=env, cxx11_abi=False))["C++ ABI"].status == "OK"
    assert "C++ ABI" not in rows(A2)
