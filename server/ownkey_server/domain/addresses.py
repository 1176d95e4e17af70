"""Which addresses on the Internet a tenant's URL may lead to: none of our own network, whatever form it is written in.

The rule is a list of what is allowed, not of what is forbidden: an address that is not plainly a unicast address of the
public Internet (IANA's special-purpose registries, RFC 6890) is refused, and one that carries another inside, such as
``::ffff:10.0.0.1`` or ``64:ff9b::a00:1``, must be allowed by both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay of 6to4"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        # Metadata of clouds at addresses that are public by their form.
        ("168.63.129.16/32", "Azure's platform"),
        ("100.100.100.200/32", "a cloud's metadata"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("100::/64", "discarded"),
        ("2001::/23", "for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "for segment routing"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")


def refusal(address: Address, allowed: Collection[Network] = ()) -> str:
    """Why nothing is sent to an address, in a few words; empty when it may be.

    Args:
        address: Where a connection would go.
        allowed: Networks that the provider allows all the same.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "it has a zone"
    if _is_in(address, allowed):
        return ""
    for one in (address, *_inside(address)):
        if one is not address and _is_in(one, allowed):
            continue
        for network, what in _REFUSED:
            if one.version == network.version and one in network:
                return f"it is {what}" if one is address else f"it carries {one}, which is {what}"
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return "" if any(True for _ in _inside(address)) and _is_carried(address) else "it is no public address"
    return ""


def _is_in(address: Address, networks: Collection[Network]) -> bool:
    return any(address.version == one.version and address in one for one in networks)


def _is_carried(address: ipaddress.IPv6Address) -> bool:
    """Whether outside of global unicast it is of a form that leads to a public IPv4 address: mapped, or NAT64's."""
    return address.ipv4_mapped is not None or address in _NAT64[0]


def _inside(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """IPv4 addresses that an IPv6 address would lead to."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _COMPATIBLE or any(address in one for one in _NAT64):
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (int(address) >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE):  # ISATAP, RFC 5214
        yield low
