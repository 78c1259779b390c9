"""The guard: keep, weaken or drop an adaptation; is the clip sharp already."""
