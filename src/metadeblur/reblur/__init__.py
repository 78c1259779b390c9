"""Reblurrers: optical flow or the paper's network make pseudo-blurred patches."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    exposure="ExposureEstimate estimate_exposure",
    fitting="Item NetworkReblurrer ReblurStage collect fit_stage",
    flow="FlowReblurrer FlowSettings fit_flow_reblurrer",
    paths="Spot blur_patch",
    place="Place Shrunk place_window real_blurred",
    reblurrer="Reblurrer",
    settings="CriticSettings ReblurUpdates",
    weights="load_reblurrer save_reblurrer",
)
