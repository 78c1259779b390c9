"""A whole file restored: cut into shots, each decided on, restored, encoded, and joined again."""
