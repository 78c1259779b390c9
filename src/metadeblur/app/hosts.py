"""Whom the page answers: names of its own, the address that a visitor really has, and which sites may ask."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names that this computer calls itself by; no site on the network can have them."""

_EVERYWHERE = ("0.0.0.0", "::", "")  # --host: all addresses of this computer
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::(\d{1,5}))?")
_USUAL_PORTS = {"http": 80, "https": 443}


def host_of(header: str) -> tuple[str, int | None] | None:
    """Name and port in a ``Host`` header; None: it is not one.

    >>> host_of("LOCALHOST.:7860"), host_of("[0:0::1]"), host_of("deblur.example.org")
    (('localhost', 7860), ('::1', None), ('deblur.example.org', None))
    >>> host_of("me@localhost"), host_of("localhost/x"), host_of(""), host_of("localhost:99999")
    (None, None, None, None)
    """
    parts = _HOST.fullmatch(header.lower())
    if parts is None or int(parts[3] or 0) > 65535:
        return None
    name = plain_address(parts[1]) if parts[1] else plain_address(parts[2].removesuffix("."))
    return (name, int(parts[3]) if parts[3] else None) if name else None


def plain_address(name: str) -> str:
    """An address as everybody writes it; anything else as it is.

    >>> plain_address("::0001"), plain_address("::ffff:10.0.0.1"), plain_address("example.org")
    ('::1', '10.0.0.1', 'example.org')
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@dataclass(frozen=True)
class Hosts:
    """The names that the page answers to, whatever the port.

    A site on the network can give its own name the address of this computer ("DNS rebinding"), and a visitor's browser
    then takes the page for a part of that site. It still sends the site's name, which is not among these.
    """

    names: frozenset[str]
    everywhere: bool = False  # also the address by which a connection came

    @classmethod
    def of(cls, host: str, further: Iterable[str] = ()) -> Hosts:
        """The hosts of a page that listens at an address.

        >>> sorted(Hosts.of("192.168.1.5", ["Deblur.example.org"]).names)
        ['127.0.0.1', '192.168.1.5', '::1', 'deblur.example.org', 'localhost']
        """
        told = [plain_address(name.lower().strip("[]").removesuffix(".")) for name in (host, *further) if name]
        return cls(frozenset((*LOOPBACK, *told)), everywhere=host in _EVERYWHERE)

    def answer(self, name: str, arrived_at: str | None) -> bool:
        """Whether a request for a host is answered.

        Args:
            name: of the host.
            arrived_at: address of this computer that the connection was made to.
        """
        return name in self.names or (
            self.everywhere and arrived_at is not None and name == plain_address(arrived_at.partition("%")[0])
        )


@dataclass(frozen=True)
class Asked:
    """Who asks, and by which name; what a proxy says of it where a proxy is believed."""

    client: str  # address
    scheme: str  # http or https
    host: str  # as in the header of this name


class Proxies:
    """Proxies that may say for whom they ask.

    Args:
        addresses: of them, or of their networks (10.0.0.0/8).

    Raises:
        ValueError: something that is not an address.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(address, strict=False) for address in addresses]

    def __contains__(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(plain_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def asked(self, client: str, scheme: str, host: str, headers: dict[str, str]) -> Asked:
        """Who asks.

        The list of addresses is believed from its end up to the first one that is not a proxy's: what stands before
        comes from the visitor, who can write anything there.

        Args:
            client: address of the other end of the connection.
            scheme: of the connection.
            host: that the request names.
            headers: the other ones; several of one name joined by commas.
        """
        if client not in self:
            return Asked(plain_address(client), scheme, host)
        forwarded_scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
        forwarded_host = headers.get("x-forwarded-host", "").partition(",")[0].strip()
        return Asked(
            self._visitor(client, headers.get("x-forwarded-for", "")),
            forwarded_scheme if forwarded_scheme in _USUAL_PORTS else scheme,
            forwarded_host or host,
        )

    def _visitor(self, client: str, chain: str) -> str:
        for entry in reversed(chain.split(",")):
            word = entry.strip()
            try:
                nearer = plain_address(str(ipaddress.ip_address(word.strip("[]"))))
            except ValueError:  # not an address: whoever wrote it is not believed
                break
            client = nearer
            if client not in self:
                break
        return plain_address(client)


def same_site(origin: str, asked: Asked) -> bool:
    """Whether a page of this origin may ask: it is this page, by name, port and scheme.

    A proxy that is not named may have taken https away; no harm comes of a page that was safer than it seems.

    >>> asked = Asked("127.0.0.1", "http", "localhost:7860")
    >>> [same_site(origin, asked) for origin in ("http://localhost:7860", "http://localhost:3000", "null", "http://x")]
    [True, False, False, False]
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    theirs, ours = host_of(parts.netloc), host_of(asked.host)
    if parts.scheme not in _USUAL_PORTS or theirs is None or ours is None or parts.path or parts.query:
        return False
    if asked.scheme == "https" and parts.scheme != "https":
        return False
    usual = _USUAL_PORTS[parts.scheme]
    return (theirs[0], theirs[1] or usual) == (ours[0], ours[1] or usual)
