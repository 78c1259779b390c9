"""Times of a video as people write them: ``--start`` and ``--end``."""

from __future__ import annotations

import math
import re

from metadeblur.limits import YEAR, OutOfRange

_CLOCK = re.compile(r"(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+(?:\.\d*)?)", re.ASCII)
_SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


def seconds_of(name: str, time: float | str) -> float:
    """A time in seconds.

    Args:
        name: of the setting, in an error.
        time: seconds, as a number or text, or text as H:MM:SS or MM:SS; seconds may have decimals.

    Raises:
        OutOfRange: it is no time.

    >>> seconds_of("start", "1:02:03.5"), seconds_of("start", "2:30"), seconds_of("start", 7), seconds_of("start", ".5")
    (3723.5, 150.0, 7.0, 0.5)
    """
    text = str(time).strip()
    seconds, clock = math.nan, _CLOCK.fullmatch(text)
    if clock is not None:
        hours, minutes, rest = int(clock["hours"] or 0), int(clock["minutes"]), float(clock["seconds"])
        if rest < 60 and (minutes < 60 or clock["hours"] is None):
            seconds = 3600.0 * hours + 60.0 * minutes + rest
    elif _SECONDS.fullmatch(text):
        seconds = float(text)
    if not 0 <= seconds <= YEAR:  # not-a-number is neither
        raise OutOfRange(name, f"is {time}; give seconds, such as 75.5, or H:MM:SS, such as 0:01:15.5")
    return seconds
