"""Folders of benchmarks with tiny frames."""

from __future__ import annotations

import cv2
import numpy as np


def make(folder, names, value=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.full((8, 8, 3), value, np.uint8))


def gopro(root):
    for part, sequence in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00"), ("test", "GOPR0410_11_00")):
        for side in ("blur", "blur_gamma", "sharp"):
            make(root / part / sequence / side, ["000001.png", "000002.png"])


def dvd(root):
    for sequence in ("720p_240fps_2", "IMG_0003", "IMG_0001"):
        make(root / "quantitative_datasets" / sequence / "input", ["00000.jpg", "00001.jpg"])
        make(root / "quantitative_datasets" / sequence / "GT", ["00000.jpg", "00001.jpg"])


def reds(root):
    for part in ("train", "val"):
        for side in ("blur", "sharp"):
            for sequence in ("000", "001"):
                make(root / part / f"{part}_{side}" / sequence, ["00000000.png", "00000001.png"])


REALBLUR_J = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"


REALBLUR_R = "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"


def realblur(root):
    for name, kind in ((REALBLUR_J, "J"), (REALBLUR_R, "R")):
        lines = []
        for scene in ("scene004", "scene230"):
            for number in (1, 2, 10):
                make(root / name / scene / "blur", [f"blur_{number}.png"])
                make(root / name / scene / "gt", [f"gt_{number}.png"])
                if scene == "scene230":
                    lines.append(f"{name}/{scene}/gt/gt_{number}.png {name}/{scene}/blur/blur_{number}.png")
        (root / f"RealBlur_{kind}_test_list.txt").write_text("\n".join(lines) + "\n")


def bsd(root, exposure="BSD_2ms16ms"):
    for part in ("train", "valid", "test"):
        for side in ("Blur", "Sharp"):
            make(root / exposure / part / "024" / side / "RGB", ["00000000.png", "00000001.png"])


def hide(root):
    make(root / "train", ["1fromGOPR0950.png"])
    make(root / "test" / "test-close-ups", ["2fromGOPR0950.png", "10fromGOPR0950.png"])
    make(root / "test" / "test-long-shot", ["3fromGOPR0950.png"])
    make(root / "GT", [f"{number}fromGOPR0950.png" for number in (1, 2, 3, 10)])


def plain(root):
    for side in ("blur", "sharp"):
        make(root / "goat" / side, ["00000.jpg", "00001.jpg"])


TREES = {
    gopro: ("test", "blur", ["GOPR0384_11_00", "GOPR0410_11_00"]),
    dvd: ("test", "input", ["720p_240fps_2", "IMG_0003"]),
    reds: ("val", "val_blur", ["000", "001"]),
    realblur: ("J", "blur", ["scene230"]),
    bsd: ("test", "Blur/RGB", ["024"]),
    hide: ("test", "", ["test-close-ups", "test-long-shot"]),
    plain: ("", "blur", ["goat"]),
}
