"""HDR10 mastering data: the mastering display and the brightest frames (SMPTE ST 2086, CTA-861.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np


@dataclass(frozen=True)
class Mastering:
    """Mastering data in the form of the encoder x265; empty where the video has none."""

    display: str = ""  # primaries and white point in 1/50,000, luminance (most, least) in 1/10,000 cd/m2
    light: str = ""  # brightest pixel, brightest mean of a frame, cd/m2

    def x265(self) -> str:
        """What is added to its parameters.

        >>> Mastering(light="1000,400").x265()
        ':max-cll=1000,400'
        """
        display = f":master-display={self.display}" if self.display else ""
        return display + (f":max-cll={self.light}" if self.light else "")


def side_data(frame: av.VideoFrame) -> Any:
    """The side data of a frame by kind; empty where PyAV does not know one of the kinds."""
    try:
        return frame.side_data
    except ValueError:
        return {}


def mastering_of(frame: av.VideoFrame) -> Mastering:
    """The mastering data of a frame, as a rule the first one."""
    records = side_data(frame)
    display, light = "", ""
    data = records.get("MASTERING_DISPLAY_METADATA")
    if data is not None:
        numbers = np.frombuffer(memoryview(data), "=i4")
        ratios, (has_primaries, has_luminance) = numbers[:20].reshape(10, 2).astype(float), numbers[20:22]
        if has_primaries and has_luminance and ratios[:, 1].all():
            values = ratios[:, 0] / ratios[:, 1]
            # FFmpeg's order: red, green, blue, white, each x and y; least and most luminance.
            red, green, blue, white = (",".join(map(str, pair)) for pair in _rounded(values[:8] * 50_000).reshape(4, 2))
            least, most = _rounded(values[8:] * 10_000)
            display = f"G({green})B({blue})R({red})WP({white})L({most},{least})"
    data = records.get("CONTENT_LIGHT_LEVEL")
    if data is not None:
        brightest, mean = np.frombuffer(memoryview(data), "=u4")[:2]
        light = f"{brightest},{mean}"
    return Mastering(display, light)


def _rounded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.round().astype(np.int64)
