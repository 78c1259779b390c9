"""Smooth random motion in continuous time: what a hand-held or driven camera, or a thing in front of it, does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Poses = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """Pose over time, time in frame intervals: cubic interpolation between knots that lie one interval apart.

    Attributes:
        knots: (K, 4): x in px, y in px, rotation in radians, logarithm of the zoom; knot k is the pose at time k - 2.
    """

    knots: Poses

    def at(self, time: float) -> Poses:
        """Pose (4,) at ``time`` (Catmull-Rom, so velocity is continuous)."""
        position = float(np.clip(time + 2, 1, len(self.knots) - 3 + 0.999999))
        index = int(position)
        u = position - index
        a, b, c, d = self.knots[index - 1 : index + 3]
        pose: Poses = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * (b - c) + d - a) * u**3)
        return pose


def random_trajectory(
    frames: int,
    speed: float,
    rng: np.random.Generator,
    *,
    smoothness: float,
    intermittency: float,
    direction: float | None = None,
    turn: float = 0.0,
    zoom: float = 0.0,
) -> Trajectory:
    """A random walk of the velocity.

    Args:
        frames: number of frames the path must cover.
        speed: root mean square speed in px a frame interval.
        rng: the randomness.
        smoothness: 0 (every interval moves anew: shake) to 1 (one constant velocity: pan).
        intermittency: 0 (always moving alike) to 1 (stops and starts, so that frames are sharp and blurred in turn).
        direction: fixed direction in radians, or None for any.
        turn: root mean square rotation in radians an interval.
        zoom: root mean square logarithmic zoom an interval.

    Returns:
        The path, starting near zero.
    """
    count = frames + 6
    velocity = np.empty((count, 4))
    state = rng.standard_normal(4)
    envelope_phase, envelope_rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.8)
    for index in range(count):
        state = smoothness * state + np.sqrt(max(1 - smoothness**2, 0)) * rng.standard_normal(4)
        envelope = 1 - intermittency * (0.5 + 0.5 * np.sin(envelope_phase + envelope_rate * index))
        velocity[index] = state * envelope
    scale = np.sqrt(np.mean(velocity[:, :2] ** 2) * 2) or 1.0
    velocity[:, :2] *= speed / scale
    if direction is not None:
        along = np.linalg.norm(velocity[:, :2], axis=1) * np.sign(velocity[:, 0])
        velocity[:, 0], velocity[:, 1] = along * np.cos(direction), along * np.sin(direction)
    velocity[:, 2] *= turn
    velocity[:, 3] *= zoom
    path = np.cumsum(velocity, axis=0)
    return Trajectory(path - path[2])
