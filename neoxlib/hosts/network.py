"""The network that the ranks of several hosts meet in, and a host's own address there."""

import socket
from ipaddress import IPv4Network, ip_address, ip_network

import psutil

from neoxlib.errors import SettingsError

NETWORK = "NEOXLIB_NETWORK"  # names it to the ranks: 10.1.0.0/16


def parse(network: str) -> IPv4Network:
    """Return a network. Raises SettingsError for a text that is none."""
    try:
        found = ip_network(network, strict=False)
    except ValueError as error:
        raise SettingsError(f"network {network!r}: {error}; write one as 10.1.0.0/16") from None
    if not isinstance(found, IPv4Network):
        raise SettingsError(f"network {network!r} is of IPv6; ranks meet over IPv4: 10.1.0.0/16")
    return found


def own_address(network: str) -> str:
    """Return this machine's address in `network`. Raises SettingsError if it has none."""
    inside = parse(network)
    ours = {
        row.address: name
        for name, rows in psutil.net_if_addrs().items()
        for row in rows
        if row.family == socket.AF_INET
    }
    for address in ours:
        if ip_address(address) in inside:
            return address
    found = ", ".join(f"{address} ({name})" for address, name in ours.items())
    raise SettingsError(
        f"{socket.gethostname()} has no address in {network}, the network of the ranks; it has "
        f"{found}. Name another one with: neoxlib cluster --network"
    )


def address_towards(host: str) -> str:
    """This machine's address in the network that `host` is reached by; "" if none is found.

    A name may resolve to the loopback on its own host, as Debian has it: that is no network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                (host.rpartition("@")[2], 9)
            )  # sends nothing: it only picks the interface
        except OSError:
            return ""
        found = probe.getsockname()[0]
    return "" if ip_address(found).is_loopback else found
