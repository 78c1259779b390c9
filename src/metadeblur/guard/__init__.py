"""The guard: keep, weaken or drop an adaptation; is the clip sharp already."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    already_sharp="sharp_already sharp_at_times",
    blurriness="Blurriness",
    judge="Before Reason Verdict blend judge_fusion look_before",
    learnable="nothing_to_learn",
    votes="FUSION_VOTES VOTES GuardSettings Sample Vote VoteKind choose_samples compare divergence look_at",
)
