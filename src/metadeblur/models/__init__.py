"""Networks and weights: the registry, one file a network, losses, weight files."""
