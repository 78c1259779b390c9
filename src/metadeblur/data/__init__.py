"""Paired clips: benchmark layouts, synthesis, training patches and windows."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    datasets="ClipDataset WindowDataset",
    folders="ClipFolder",
    layouts="LAYOUTS Benchmark open_benchmark plain_clips",
    paired="PairedClip TrialClip read_trial",
    pairs="PairSampler",
    settings="SynthSettings",
    synthesis="synthesize",
    windows="WindowSampler",
)
