"""Folders of pictures and picture files: each comes back in its own form, with all that its file says."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from cases import case
from kept import PROFILE, TURNED, jpeg_with, passed, png_with, scene, store, stored, tiled_photograph

from metadeblur.errors import MetadeblurError
from metadeblur.video import VideoReader, check_output, probe, read_clip

FORMS = {
    "grey8": (1, 8),
    "colour16": (3, 16),
    "clear16": (4, 16),
    "grey16": (1, 16),
    "colour8": (3, 8),
    "clear8": (4, 8),
}


@case(
    "Files and streams",
    "a folder that mixes grey and colour, 8 and 16 bits, opaque and transparent pictures, grey or 8 bits first",
    "all headers are looked at, each picture comes back in its own form",
    "kept: channels, depth and transparency of each",
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("first", list(FORMS))
def test_each_picture_of_a_folder_keeps_its_own_form(tmp_path: Path, first: str, suffix: str) -> None:
    order = [first, *(form for form in FORMS if form != first)]
    for number, form in enumerate(order):
        channels, bits = FORMS[form]
        store(tmp_path / "in" / f"{number}{suffix}", scene(number + 1, channels, bits=bits)[-1])
    assert probe(tmp_path / "in").bit_depth == 16
    assert passed(tmp_path / "in", tmp_path / "out") == []
    for number, _ in enumerate(order):
        before, after = (stored(tmp_path / folder / f"{number}{suffix}") for folder in ("in", "out"))
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert np.array_equal(after, before)


@case(
    "Files and streams",
    "a folder that mixes PNG, JPEG, TIFF, BMP and WebP",
    "each picture is written in the format that it had",
    "kept: names and formats",
)
def test_formats_may_be_mixed(tmp_path: Path) -> None:
    names = ["1.png", "2.jpg", "3.tif", "4.bmp", "5.webp", "6.jpeg"]
    for name, picture in zip(names, scene(6), strict=True):
        store(tmp_path / "in" / name, picture, [cv2.IMWRITE_WEBP_QUALITY, 101] if name.endswith("webp") else [])
    assert passed(tmp_path / "in", tmp_path / "out") == []
    for name in names:
        data = (tmp_path / "out" / name).read_bytes()
        assert data[:2] == (tmp_path / "in" / name).read_bytes()[:2]
        assert np.abs(stored(tmp_path / "out" / name).astype(int) - stored(tmp_path / "in" / name)).max() < 6


@case(
    "Files and streams",
    "pictures named .JPG, .Png or .TIFF, with several dots, not in Latin letters, or alike but for case",
    "they are written under exactly these names",
    "kept: names",
)
def test_names_stay_as_they_are(tmp_path: Path) -> None:
    names = ["IMG_1.JPG", "IMG_2.Jpeg", "a.b.c.Png", "A.B.C.PNG", "写真 3.TIFF", "x.Tif", "y.BMP", "z.WebP"]
    for name, picture in zip(names, scene(len(names)), strict=True):
        store(tmp_path / "in" / name, picture)
    passed(tmp_path / "in", tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(names)
    again = passed(tmp_path / "in", tmp_path / "out", quality="lossless")  # replaces those of the first run
    assert again == []
    assert "IMG_1.png" in [f.name for f in (tmp_path / "out").iterdir()]


def test_names_that_would_become_alike_keep_their_suffix(tmp_path: Path) -> None:
    first, second = scene(2)
    store(tmp_path / "in" / "a.jpg", first)
    store(tmp_path / "in" / "a.png", second)
    passed(tmp_path / "in", tmp_path / "out", quality="lossless")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.jpg.png", "a.png"]


@case(
    "Files and streams",
    "a folder of pictures of different sizes",
    "refused from the headers alone, before any work",
    "one line that names the files and their sizes",
)
def test_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    for number, picture in enumerate(scene(4)):
        store(tmp_path / "in" / f"{number}.png", picture if number != 1 else picture[:-8])
    with pytest.raises(MetadeblurError, match=r"0\.png is 56x40, 1\.png is 56x32"):
        probe(tmp_path / "in")


@case(
    "Files and streams",
    "photographs held differently: some stored lying with an EXIF mark, some upright",
    "all are read and written upright, and the mark is taken out",
    "kept: how they look",
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photographs_held_differently_come_back_upright(tmp_path: Path, suffix: str) -> None:
    tall = [np.ascontiguousarray(picture) for picture in scene(2, size=(56, 40))]
    store(tmp_path / "in" / f"1{suffix}", tall[0])
    lying = cv2.rotate(tall[1], cv2.ROTATE_90_COUNTERCLOCKWISE)
    data = store(tmp_path / "in" / f"2{suffix}", lying).read_bytes()
    turned = jpeg_with(data, (0xE1, b"Exif\0\0" + TURNED)) if suffix == ".jpg" else png_with(data, (b"eXIf", TURNED))
    (tmp_path / "in" / f"2{suffix}").write_bytes(turned)
    passed(tmp_path / "in", tmp_path / "out")
    for number in (1, 2):
        shown = cv2.imread(str(tmp_path / "out" / f"{number}{suffix}"))
        assert np.abs(shown.astype(int) - tall[number - 1]).max() < 16
    assert b"\x01\x12\0\x03\0\0\0\x01\0\x01" in (tmp_path / "out" / f"2{suffix}").read_bytes()


def test_a_lying_picture_keeps_its_transparency_in_place(tmp_path: Path) -> None:
    tall = scene(1, 4, size=(56, 40))[0]
    data = store(tmp_path / "a.png", cv2.rotate(tall, cv2.ROTATE_90_COUNTERCLOCKWISE)).read_bytes()
    (tmp_path / "a.png").write_bytes(png_with(data, (b"eXIf", TURNED)))
    passed(tmp_path / "a.png", tmp_path / "b.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "b.png"), -1), tall)


def test_palettes_and_single_transparent_colours(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes((x // 4 + y // 4) % 3 for x in range(40)) for y in range(32))
    head = struct.pack(">IIBBBBB", 40, 32, 8, 3, 0, 0, 0)
    palette = bytes([200, 30, 30, 30, 200, 30, 30, 30, 200])

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for name, extra in (("1.png", b""), ("2.png", chunk(b"tRNS", b"\0\x80\xff"))):
        parts = [chunk(b"IHDR", head), chunk(b"PLTE", palette), extra, chunk(b"IDAT", zlib.compress(rows))]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    assert passed(tmp_path / "in", tmp_path / "out") == []
    for name in ("1.png", "2.png"):
        assert np.array_equal(stored(tmp_path / "out" / name), stored(tmp_path / "in" / name))


@case(
    "Files and streams",
    "transparent pictures written as JPEG or BMP, or 16 bits as one of these",
    "written opaque",
    "told: the transparency of which pictures is not kept",
)
def test_formats_without_transparency_say_so(tmp_path: Path) -> None:
    store(tmp_path / "a.png", scene(1, 4)[0])
    assert passed(tmp_path / "a.png", tmp_path / "b.jpg") == ["the transparency of a.png"]


# Several pictures in one file ---------------------------------------------------------------------------------------


@case(
    "Files and streams",
    "a TIFF file of many pages, grey, colour and 16 bits among them",
    "all pages are restored and come back in one file",
    "kept: number, order, depth and channels of the pages",
)
def test_all_pages_of_a_tiff_come_back(tmp_path: Path) -> None:
    pages = [*scene(3, bits=16), scene(4, 1)[3], *scene(6, 4)[4:]]
    (tmp_path / "a.tif").write_bytes(cv2.imencodemulti(".tif", pages)[1].tobytes())
    assert probe(tmp_path / "a.tif").frames == 6
    assert passed(tmp_path / "a.tif", tmp_path / "b.tif") == []
    done, after = cv2.imdecodemulti(np.frombuffer((tmp_path / "b.tif").read_bytes(), np.uint8), -1)
    assert done
    assert len(after) == 6
    assert all(np.array_equal(one, other) for one, other in zip(pages, after, strict=True))
    with pytest.raises(MetadeblurError, match="cannot hold 6 frames"):
        check_output(tmp_path / "a.tif", tmp_path / "b.png")
    passed(tmp_path / "a.tif", tmp_path / "pages")
    assert len(list((tmp_path / "pages").iterdir())) == 6


@case(
    "Files and streams",
    "an animated PNG, WebP or AVIF",
    "all its pictures are restored and come back as an animation of the same kind",
    "kept: number of pictures, how long each is shown, transparency, repetitions",
)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif"])
def test_animations_stay_animations(tmp_path: Path, suffix: str) -> None:
    animation = cv2.Animation()
    animation.frames, animation.durations, animation.loop_count = scene(10, 4), [100] * 4 + [40] * 6, 3
    options = [cv2.IMWRITE_WEBP_QUALITY, 101, cv2.IMWRITE_AVIF_QUALITY, 100]
    done, data = cv2.imencodeanimation(suffix, animation, options)
    assert done
    source = tmp_path / f"a{suffix}"
    source.write_bytes(data.tobytes())
    info = probe(source)
    assert (info.frames, info.variable_frame_rate) == (10, True)
    assert passed(source, tmp_path / f"b{suffix}") == []
    done, after = cv2.imdecodeanimation(np.frombuffer((tmp_path / f"b{suffix}").read_bytes(), np.uint8))
    _, before = cv2.imdecodeanimation(data)
    assert list(after.durations) == [100] * 4 + [40] * 6
    assert after.loop_count == before.loop_count
    for one, other in zip(before.frames, after.frames, strict=True):
        assert np.abs(one[..., 3].astype(int) - other[..., 3]).max() <= 2
        assert np.abs((one.astype(int) - other)[one[..., 3] > 0]).max() <= 8
    passed(source, tmp_path / "b.mkv")
    times = VideoReader(tmp_path / "b.mkv").times
    assert [stamp * times.time_base for stamp in times.stamps[:6]][4:] == [pytest.approx(0.4), pytest.approx(0.44)]


def test_files_of_several_pictures_in_a_folder(tmp_path: Path) -> None:
    pictures = scene(6)
    store(tmp_path / "in" / "1.tif", pictures[0])
    (tmp_path / "in" / "2.tif").write_bytes(cv2.imencodemulti(".tif", pictures[1:5])[1].tobytes())
    store(tmp_path / "in" / "3.png", pictures[5])
    assert len(read_clip(tmp_path / "in")) == 6
    assert passed(tmp_path / "in", tmp_path / "out") == []
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["1.tif", "2.tif", "3.png"]
    _, after = cv2.imdecodemulti(np.frombuffer((tmp_path / "out" / "2.tif").read_bytes(), np.uint8), -1)
    assert all(np.array_equal(one, other) for one, other in zip(pictures[1:5], after, strict=True))


def multi_picture_record(kinds: list[int]) -> bytes:
    """The record of a multi-picture JPEG (CIPA DC-007) with pictures of some kinds."""
    entries = b"".join(struct.pack(">IIIHH", kind, 1000, 0, 0, 0) for kind in kinds)
    tags = struct.pack(">HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHII", 0xB001, 4, 1, len(kinds))
    tags += struct.pack(">HHII", 0xB002, 7, len(entries), 8 + 2 + 36 + 4)
    return b"MPF\0MM\0*\0\0\0\x08\0\x03" + tags + bytes(4) + entries


@case(
    "Files and streams",
    "a stereo photograph or panorama (several views in one JPEG)",
    "refused before any work",
    "one line that says how many pictures it holds and what to do",
)
def test_stereo_photographs_are_refused(tmp_path: Path) -> None:
    data = store(tmp_path / "a.jpg", scene(1)[0]).read_bytes()
    (tmp_path / "a.jpg").write_bytes(jpeg_with(data, (0xE2, multi_picture_record([0x20020002, 0x20002]))))
    with pytest.raises(MetadeblurError, match="holds 2 pictures of one moment"):
        probe(tmp_path / "a.jpg")


@case(
    "Files and streams",
    "a photograph with a gain map (Ultra HDR) or a preview behind it",
    "the photograph is restored",
    "told: the further pictures are not kept",
)
def test_gain_maps_are_told(tmp_path: Path) -> None:
    data = store(tmp_path / "a.jpg", scene(1)[0]).read_bytes()
    (tmp_path / "a.jpg").write_bytes(jpeg_with(data, (0xE2, multi_picture_record([0x30000, 0]))))
    assert passed(tmp_path / "a.jpg", tmp_path / "b.jpg") == ["1 further pictures (previews or gain maps) of a.jpg"]
    assert b"MPF\0" not in (tmp_path / "b.jpg").read_bytes()


# What files say of their pictures -----------------------------------------------------------------------------------


def labelled(path: Path) -> bytes:
    """Write a picture with colour profile, EXIF and XMP; returns the text of the XMP record."""
    xmp = b'<x:xmpmeta><rdf:Description dc:rights="mine"/></x:xmpmeta>'
    plain = TURNED.replace(b"\0\6", b"\0\1")  # no turn
    picture = scene(1)[0]
    if path.suffix == ".png":
        content = png_with(
            cv2.imencode(".png", picture)[1].tobytes(),
            (b"iCCP", b"P3\0\0" + zlib.compress(PROFILE)),
            (b"eXIf", plain),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        )
        path.write_bytes(content)
    elif path.suffix == ".tif":
        data = cv2.imencode(".tif", picture)[1].tobytes()
        (place,) = struct.unpack("<I", data[4:8])
        (count,) = struct.unpack("<H", data[place : place + 2])
        entries = data[place + 2 : place + 2 + 12 * count]
        end = len(data)
        entries += struct.pack("<HHII", 700, 1, len(xmp), end) + struct.pack("<HHII", 34675, 7, 140, end + len(xmp))
        directory = struct.pack("<H", count + 2) + entries + bytes(4)
        path.write_bytes(data[:4] + struct.pack("<I", end + len(xmp) + 140) + data[8:] + xmp + PROFILE + directory)
    elif path.suffix == ".jpg":
        segments = [(0xE1, b"Exif\0\0" + plain), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)]
        data = cv2.imencode(".jpg", picture)[1].tobytes()
        path.write_bytes(jpeg_with(data, *segments, (0xE2, b"ICC_PROFILE\0\1\1" + PROFILE)))
    else:
        pixels = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()[12:]
        head = bytes([0x2C, 0, 0, 0]) + (55).to_bytes(3, "little") + (39).to_bytes(3, "little")
        chunks = [(b"VP8X", head), (b"ICCP", PROFILE), (b"", pixels), (b"EXIF", plain), (b"XMP ", xmp)]
        made = [k + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) if k else c for k, c in chunks]
        path.write_bytes(b"RIFF" + struct.pack("<I", len(b"".join(made)) + 4) + b"WEBP" + b"".join(made))
    return xmp


def profile_in(path: Path) -> bytes:
    """The colour profile of a picture."""
    data = path.read_bytes()
    if path.suffix == ".png":
        place = data.find(b"iCCP")
        (length,) = struct.unpack(">I", data[place - 4 : place])
        return zlib.decompress(data[place + 4 : place + 4 + length].split(b"\0", 1)[1][1:])
    return PROFILE if PROFILE in data else b""


@case(
    "Files and streams",
    "photographs with a colour profile (Display P3, Adobe RGB), EXIF and XMP records",
    "PNG, JPEG, TIFF and WebP get them back",
    "kept: how colours are meant; told where a format has no place for them",
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("target", ["", ".png", ".jpg", ".tif", ".webp"])
def test_profiles_and_records_stay_with_pictures(tmp_path: Path, suffix: str, target: str) -> None:
    xmp = labelled(tmp_path / f"a{suffix}")
    output = tmp_path / f"b{target or suffix}"
    lost = passed(tmp_path / f"a{suffix}", output)
    assert lost == (["the EXIF record of a" + suffix] if output.suffix == ".tif" and suffix != ".tif" else [])
    assert profile_in(output) == PROFILE
    assert xmp in output.read_bytes()
    if suffix != ".tif" and output.suffix != ".tif":
        assert b"MM\0*\0\0\0\x08\0\x01\x01\x12" in output.read_bytes()
    before, after = stored(tmp_path / f"a{suffix}"), stored(output)
    assert np.abs(before.astype(int) - after).max() < (12 if ".jpg" in (suffix, output.suffix) else 1)


def test_profiles_that_have_no_place_are_told(tmp_path: Path) -> None:
    labelled(tmp_path / "a.png")
    for name in ("b.bmp", "b.mp4"):
        lost = passed(tmp_path / "a.png", tmp_path / name)
        assert "the colour profile (ICC) of a.png" in lost


def test_large_profiles_and_other_text(tmp_path: Path) -> None:
    data = store(tmp_path / "a.jpg", scene(1)[0]).read_bytes()
    profile = PROFILE + bytes(range(256)) * 400
    parts = [profile[:65000], profile[65000:]]
    segments = [(0xE2, b"ICC_PROFILE\0" + bytes([n, 2]) + part) for n, part in enumerate(parts, start=1)]
    (tmp_path / "a.jpg").write_bytes(jpeg_with(data, *segments, (0xFE, b"a remark"), (0xED, b"Photoshop 3.0\0 IPTC")))
    assert passed(tmp_path / "a.jpg", tmp_path / "b.jpg") == []
    after = (tmp_path / "b.jpg").read_bytes()
    assert all(part in after for part in (*parts, b"a remark", b"IPTC"))
    passed(tmp_path / "a.jpg", tmp_path / "c.png")
    assert profile_in(tmp_path / "c.png") == profile
    passed(tmp_path / "c.png", tmp_path / "d.jpg")
    assert all(part[:60000] in (tmp_path / "d.jpg").read_bytes() for part in parts)


@case(
    "Files and streams",
    "a photograph stored in tiles: AVIF, HEIC",
    "AVIF: all of it is restored; HEIC: refused before any work",
    "one line that names the file and says what to do",
)
def test_tiled_photographs_are_whole_or_refused(tmp_path: Path) -> None:
    whole = tiled_photograph(tmp_path / "a.avif", "libsvtav1", b"avif")
    frame = read_clip(tmp_path / "a.avif")[0].permute(1, 2, 0).numpy() * 255
    assert frame.shape == (128, 128, 3)
    assert np.abs(frame - whole).mean() < 4
    assert passed(tmp_path / "a.avif", tmp_path / "b.avif") == []
    assert np.abs(stored(tmp_path / "b.avif")[..., ::-1] - frame).max() <= 1
    tiled_photograph(tmp_path / "a.heic", "libx265", b"heic")
    with pytest.raises(MetadeblurError, match="stored as 4 tiles"):
        probe(tmp_path / "a.heic")
