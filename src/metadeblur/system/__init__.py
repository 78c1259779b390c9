"""The machine and its files: device, memory, locks, files that appear whole, records."""
