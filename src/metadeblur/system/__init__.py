"""The machine and its files: memory, locks, files that appear whole, records as JSON."""
