"""The tables of versions, and their order."""

import pytest

from neoxlib.machine import versions


def test_the_tables_hold_together():
    releases = [release.torch_npu for release in versions.RELEASES]
    assert len(releases) == len(set(releases))
    assert all(
        release.torch_npu.startswith(release.torch) and release.torch in versions.PYTHONS
        for release in versions.RELEASES
    )
    assert versions.GUIDE.release.cann == versions.GUIDE.cann == "7.0.0"
    assert versions.TODAY.cann == "9.1.0" and versions.TODAY.release.torch == "2.13.0"


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("2.4", "2.27"),
        ("8.0.RC3", "8.0.0"),
        ("8.0.RC2", "8.0.RC3"),
        ("7.0.RC1", "7.0.0"),
        ("8.5.0", "9.0.0"),
        ("2.13.0", "2.13.0.post1"),
        ("7.0.0", "7.1.0.3.220"),
    ],
)
def test_versions_are_ordered_as_their_makers_mean_them(low, high):
    assert versions.order(low) < versions.order(high)


def test_a_build_is_of_its_release_and_no_other():
    assert versions.same_cann("7.0.0.B080", "7.0.0") and versions.same_cann("8.0.RC3", "8.0.RC3")
    assert not versions.same_cann("8.0.RC3", "8.0.0") and not versions.same_cann("9.0.0", "9.1.0")
