"""Networks and their weights: the registry, one file a network, losses, weight files in and out."""
