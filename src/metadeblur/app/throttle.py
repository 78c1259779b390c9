"""Wrong passwords: whoever gives some has to wait before the next, twice as long each time."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_TRIES = 5  # before anybody has to wait
FIRST_WAIT = 1.0  # seconds
LONGEST_WAIT = 900.0  # seconds
MOST_KNOWN = 10_000  # addresses remembered


@dataclass
class _Tries:
    count: int = 0
    until: float = 0.0  # when the next one is allowed, on the clock


class Throttle:
    """Counts tries by address; the oldest ones are forgotten when there are very many.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Tries] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0: this is a try, which counts as a wrong one until it is right.

        Counting beforehand leaves no room for many tries at the same moment.
        """
        key, now = _neighbourhood(address), self._clock()
        tries = self._known.pop(key, None) or _Tries()
        if now - tries.until > LONGEST_WAIT:
            tries = _Tries()  # long ago
        self._known[key] = tries
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        if now < tries.until:
            return tries.until - now
        tries.count += 1
        over = tries.count - FREE_TRIES
        tries.until = now + (min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(over, 30)) if over >= 0 else 0.0)
        return 0.0

    def right(self, address: str) -> None:
        """The password was right."""
        self._known.pop(_neighbourhood(address), None)


def _neighbourhood(address: str) -> str:
    """What one person can have: an address, or in IPv6 a whole network of them.

    >>> _neighbourhood("10.0.0.1"), _neighbourhood("2001:db8::1") == _neighbourhood("2001:db8::2")
    ('10.0.0.1', True)
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
