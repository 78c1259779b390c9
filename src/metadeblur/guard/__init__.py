"""The guard: whether an adaptation is kept, weakened or dropped, and whether there is anything to do at all."""
