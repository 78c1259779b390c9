"""Pure functions of pictures: flow, motion, sharpness, light, noise, quality, tiles."""
