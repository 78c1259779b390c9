"""What the paper prints: Tables 1 and 2 of "Meta Transferring for Deblurring" (Liu et al., BMVC 2022).

Networks pre-trained on GoPro (22 clips, 2,103 pairs). Figures 5 and 6 show pictures and curves whose numbers it does
not give.
"""

from __future__ import annotations

NETWORKS = {"mimo-unet-plus": "MIMO-UNet+", "mprnet": "MPRNet", "restormer": "Restormer", "cdvd-tsp": "CDVD-TSP"}
"""The paper's networks by this program's names."""

DATASETS = {"dvd": "DVD", "reds": "REDS", "realblur": "RealBlur-J"}
"""The paper's test sets by layout: DVD's 10 test clips, REDS' 30 validation clips, RealBlur-J's 50 test scenes."""

PARTS = {"dvd": "test", "reds": "val", "realblur": "J"}
SSIM = {"dvd": "luma", "reds": "luma", "realblur": "aligned"}
"""Kind of SSIM that the paper takes: its released code measures luma, and RealBlur by the rule of its authors."""

Printed = tuple[float, float]  # PSNR in dB, SSIM

TABLE_1: dict[tuple[str, str], tuple[Printed, Printed]] = {
    ("mimo-unet-plus", "dvd"): ((29.43, 0.914), (29.70, 0.917)),
    ("mimo-unet-plus", "reds"): ((26.43, 0.859), (26.73, 0.859)),
    ("mimo-unet-plus", "realblur"): ((27.63, 0.837), (28.11, 0.851)),
    ("mprnet", "dvd"): ((29.68, 0.918), (30.04, 0.921)),
    ("mprnet", "reds"): ((26.85, 0.864), (27.05, 0.864)),
    ("mprnet", "realblur"): ((28.70, 0.873), (28.75, 0.876)),
    ("restormer", "dvd"): ((29.67, 0.916), (30.01, 0.921)),
    ("restormer", "reds"): ((26.93, 0.867), (27.21, 0.867)),
    ("restormer", "realblur"): ((28.96, 0.879), (29.07, 0.885)),
    ("cdvd-tsp", "dvd"): ((30.86, 0.938), (30.97, 0.939)),
    ("cdvd-tsp", "reds"): ((27.17, 0.891), (27.52, 0.892)),
    ("cdvd-tsp", "realblur"): ((28.69, 0.873), (29.15, 0.887)),
}
"""(network, data set): (baseline, meta), each PSNR and SSIM. Table 2 gives 30.83 as CDVD-TSP's baseline on DVD."""

LOSSES = ("none", "cycle", "gan", "both")
"""Losses of the reblur stage that Table 2 compares; with none of them nothing is adapted: the baseline."""

TABLE_2: dict[str, tuple[float, float, float, float]] = {
    "mimo-unet-plus": (29.43, 29.58, 29.62, 29.70),
    "mprnet": (29.68, 29.83, 30.02, 30.04),
    "restormer": (29.67, 29.81, 29.90, 30.01),
    "cdvd-tsp": (30.83, 30.94, 30.94, 30.97),
}
"""PSNR in dB on DVD with each of the losses."""
