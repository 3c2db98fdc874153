"""A host's own address in the network of the ranks."""

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts import network


def test_the_own_address_is_the_one_in_the_network():
    assert network.own_address("127.0.0.0/8") == "127.0.0.1"


def test_a_network_without_an_address_here_is_told_with_the_addresses_there_are():
    with pytest.raises(SettingsError, match=r"no address in 198\.51\.100\.0/24.*127\.0\.0\.1"):
        network.own_address("198.51.100.0/24")


@pytest.mark.parametrize(
    ("text", "told"),
    [("eth0", "write one as 10.1"), ("10.0.0.0/99", "write one"), ("fd00::/8", "IPv4")],
)
def test_a_text_that_is_no_network_is_refused(text: str, told: str):
    with pytest.raises(SettingsError, match=told):
        network.own_address(text)


def test_an_address_within_the_network_stands_for_it():
    assert str(network.parse("10.1.2.3/16")) == "10.1.0.0/16"


def test_the_loopback_leads_to_no_other_host():
    assert network.address_towards("127.0.0.1") == ""
    assert network.address_towards("no such host") == ""
