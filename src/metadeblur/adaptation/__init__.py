"""Adaptation: a copy of a deblurrer fits itself to one blurred clip, without ground truth."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    budget="Budget",
    outcome="Outcome",
    pairs="PairSource make_pairs mark_shrunk still_share",
    parameters="PARAMETERS LowRank free merge_adapters",
    places="MINIMUM_FRAMES MINIMUM_PATCH SupportSet choose_support too_few",
    settings="AdaptSettings preset",
    stages="adapt fit_network",
    steps="Callback Moved OptimizerFactory Pair Progress inner_update",
    targets="Sharpener",
)
