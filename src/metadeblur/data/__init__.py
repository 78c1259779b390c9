"""Training material: made by synthesis, read from benchmark folders, drawn as patches."""
