"""Pictures to RGB and back: exact, at any depth, by any matrix and range."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import moving_picture

from metadeblur.video.colour import FULL, LIMITED, ColourTags, assumed_matrix, enlarge, reduce, to_frame, to_rgb

FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv420p10le", "yuv422p12le", "yuv444p16le", "gbrp", "gbrp10le")


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(moving_picture(1, height, width, seed=seed)[0]).permute(2, 0, 1) / 255


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    found = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
        found.append(rows[:, : plane.width].astype(int))
    return found


def tagged(frame: av.VideoFrame, matrix: int, full: bool) -> av.VideoFrame:
    frame.colorspace, frame.color_range = matrix, FULL if full else LIMITED
    return frame


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from([1, 4, 5, 6, 7, 8, 9]),
    st.booleans(),
    st.integers(16, 41),
    st.integers(16, 41),
    st.integers(0, 9),
)
def test_decoding_and_encoding_again_gives_the_samples_back(
    pix_fmt: str, matrix: int, full: bool, height: int, width: int, seed: int
) -> None:
    source = tagged(to_frame(picture(height, width, seed), pix_fmt, matrix, full), matrix, full)
    again = to_frame(to_rgb(source, ColourTags()), pix_fmt, matrix, full)
    # One step of 16 bits is finer than float arithmetic; at 8 to 12 bits nothing may change.
    allowed = 2 if "16" in pix_fmt else 0
    for before, after in zip(planes(source), planes(again), strict=True):
        assert np.abs(before - after).max() <= allowed


@pytest.mark.parametrize(
    ("matrix", "full", "red"),
    [
        (6, False, (81, 90, 240)),  # ITU-R BT.601, limited range
        (1, False, (63, 102, 240)),  # ITU-R BT.709, limited range
        (6, True, (76, 85, 255)),  # JFIF
        (9, False, (74, 97, 240)),  # ITU-R BT.2020
    ],
)
def test_pure_red_has_the_values_of_the_standards(matrix: int, full: bool, red: tuple[int, int, int]) -> None:
    rgb = torch.zeros(3, 8, 8)
    rgb[0] = 1
    frame = tagged(to_frame(rgb, "yuv444p", matrix, full), matrix, full)
    assert tuple(int(plane[4, 4]) for plane in planes(frame)) == red
    assert torch.allclose(to_rgb(frame, ColourTags()), rgb, atol=0.006)


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize(
    ("pix_fmt", "full"),
    [(name, full) for name in ("yuv444p", "yuv420p", "nv12", "p010le", "yuyv422", "yuva420p") for full in (False, True)]
    + [("yuvj420p", True)],
)
def test_agrees_with_swscale(pix_fmt: str, full: bool, matrix: int) -> None:
    """FFmpeg's own conversion of the same picture: nearly the same, chroma interpolation apart."""
    rgb = picture(64, 96)
    source = av.VideoFrame.from_ndarray((rgb.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), format="rgb24")
    frame = source.reformat(
        format=pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full else 1, interpolation="BICUBIC"
    )
    tagged(frame, matrix, full)
    assert (to_rgb(frame, ColourTags()) - rgb).abs().mean() < 2 / 255


def test_all_bits_of_deep_video_are_used() -> None:
    ramp = (torch.arange(1024) / 1023).reshape(1, 32, 32).expand(3, -1, -1)
    frame = tagged(to_frame(ramp, "yuv444p10le", 1, full=True), 1, full=True)
    assert to_rgb(frame, ColourTags())[0].unique().numel() == 1024


def test_a_part_is_what_it_is_in_the_whole() -> None:
    frame = tagged(to_frame(picture(62, 95), "yuv420p", 1, full=False), 1, full=False)
    whole = to_rgb(frame, ColourTags())
    for top, left, height, width in ((0, 0, 9, 11), (16, 8, 20, 31), (42, 70, 20, 25), (0, 0, 62, 95)):
        part = to_rgb(frame, ColourTags(), (top, left, height, width))
        assert torch.equal(part, whole[:, top : top + height, left : left + width])


def test_tags_of_the_file_count_where_the_picture_tells_nothing() -> None:
    rgb = torch.tensor([0.5, 0.25, 0.75]).reshape(3, 1, 1).expand(3, 8, 8)
    frame = to_frame(rgb, "yuv444p", 9, full=True)
    assert torch.allclose(to_rgb(frame, ColourTags(matrix=9, range=FULL)), rgb, atol=0.006)
    assert (to_rgb(frame, ColourTags()) - rgb).abs().max() > 0.03


def test_untold_matrix_depends_on_the_size() -> None:
    assert [assumed_matrix(2, *size) for size in ((720, 576), (1280, 720), (720, 1280))] == [6, 1, 1]


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
def test_reducing_undoes_enlarging(height: int, width: int, steps: tuple[int, int]) -> None:
    chroma = torch.rand(height, width, generator=torch.Generator().manual_seed(height * 10 + width))
    assert torch.allclose(reduce(enlarge(chroma, *steps), *steps), chroma, atol=3e-3)


@pytest.mark.parametrize("range_told", [0, LIMITED, FULL])
@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray12le", "gray16le", "gray16be", "ya8"])
def test_grey_pictures_have_the_full_range(pix_fmt: str, range_told: int) -> None:
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    gray = av.VideoFrame.from_ndarray(ramp, format="gray").reformat(format=pix_fmt)
    gray.color_range = range_told
    expected = torch.from_numpy(ramp / 255).float().expand(3, -1, -1)
    assert torch.allclose(to_rgb(gray, ColourTags()), expected, atol=1.1 / 255)


def test_packed_and_palette_pictures() -> None:
    packed = av.VideoFrame.from_ndarray(moving_picture(1, 16, 24)[0], format="rgb24")
    expected = torch.from_numpy(moving_picture(1, 16, 24)[0]).permute(2, 0, 1) / 255
    for pix_fmt in ("rgb24", "bgr24", "bgra", "rgb48le", "gbrap"):
        assert torch.allclose(to_rgb(packed.reformat(format=pix_fmt), ColourTags()), expected, atol=1.1 / 255)


DECODED = (
    "monow", "monob", "gray", "gray10le", "gray12be", "gray14le", "gray16le", "ya8", "ya16be", "grayf32le",
    "rgb4_byte", "rgb8", "rgb444le", "rgb555le", "bgr565be", "rgb24", "bgr0", "argb", "rgba", "rgb48be", "rgba64le",
    "gbrp", "gbrp9be", "gbrp10le", "gbrp14le", "gbrp16be", "gbrap", "gbrap12le", "gbrpf32le", "x2rgb10le", "yuv410p",
    "yuv411p", "yuv420p", "yuv422p", "yuv440p", "yuv444p", "yuvj411p", "yuvj420p", "yuvj422p", "yuvj444p",
    "yuva444p10le", "nv12", "nv16", "nv24", "yuyv422", "uyvy422", "p010le", "p210be", "p416le", "y210le",
    "yuv420p9be", "yuv422p12le", "yuv444p16be", "xyz12le",
)  # fmt: skip


@pytest.mark.parametrize("pix_fmt", DECODED)
def test_every_pixel_format_is_read_as_ffmpeg_does(pix_fmt: str) -> None:
    frame = av.VideoFrame.from_ndarray(moving_picture(1, 48, 64)[0], format="rgb24").reformat(format=pix_fmt)
    theirs = torch.from_numpy(frame.to_ndarray(format="rgb24").copy()).permute(2, 0, 1) / 255
    ours = to_rgb(frame, ColourTags())
    # Chroma is enlarged bilinearly here and by larger steps there, the fewer samples there are the more it shows.
    assert 10 * torch.log10(1 / (ours - theirs).square().mean()) > (32 if "41" in pix_fmt else 38)


def test_rgb_is_encoded_exactly() -> None:
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 16, 22))) / 255
    for pix_fmt in ("rgb24", "bgr0", "gbrp"):
        assert torch.allclose(to_rgb(to_frame(rgb, pix_fmt, 0, full=True), ColourTags()), rgb.float(), atol=1e-6)
