"""Paired clips: benchmark layouts, synthesis, training patches and windows."""
