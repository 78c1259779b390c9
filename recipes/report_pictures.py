"""The pictures of docs/reading-the-report.md: parts of a real report, as Chromium draws it.

    metadeblur demo practice --film --frames 12 --width 224 --height 168
    metadeblur restore practice/shaky.mp4 -o practice/sharp.mp4 --report practice/report
    python recipes/report_pictures.py practice/report docs/images [--chromium /usr/bin/chromium]

Writes report_top.jpg, report_guard.jpg, report_pairs.jpg and report_plots.jpg. Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH = 940  # px, of the window
PARTS = {
    "guard": ("The guard",),
    "pairs": ("What the network learnt from",),
    "plots": ("Self-shift map", "Sharpness over time"),
}
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


def clip(page: Page, titles: tuple[str, ...]) -> dict[str, float]:
    """Where the sections of these titles lie together on the page."""
    boxes = []
    for title in titles:
        box = page.locator("section.part", has=page.get_by_role("heading", name=title)).first.bounding_box()
        assert box is not None, title
        boxes.append(box)
    top, bottom = boxes[0]["y"], boxes[-1]["y"] + boxes[-1]["height"]
    return {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=list(QUIET))
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto((given.report / "index.html").resolve().as_uri())
        page.wait_for_timeout(500)
        viewer = page.locator(".viewer").first.bounding_box()
        assert viewer is not None
        top = {"x": 0, "y": 0, "width": WIDTH, "height": viewer["y"] + viewer["height"] + 16}
        page.screenshot(path=given.out / "report_top.jpg", clip=top, full_page=True, type="jpeg", quality=85)
        for name, titles in PARTS.items():
            page.screenshot(
                path=given.out / f"report_{name}.jpg", clip=clip(page, titles), full_page=True, type="jpeg", quality=85
            )
        browser.close()


if __name__ == "__main__":
    main()
