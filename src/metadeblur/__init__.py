"""metadeblur restores motion-blurred video with a network that first adapts itself to that video."""

__version__ = "0.1.0"
