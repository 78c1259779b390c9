"""What lies in and beside a video stream: transparency, sound of any codec, captions and other marks."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cases import case
from kept import passed, scene, store, transparent_video
from media import ROTATED_90, make_video, moving_picture, video_packets

from metadeblur.errors import MetadeblurError
from metadeblur.video import VideoReader, check_output, probe, read_clip
from metadeblur.video.transparency import filled, put_back

# Transparency -------------------------------------------------------------------------------------------------------

TRANSPARENT = {
    "prores.mov": ("prores_ks", "yuva444p10le", ".mov", "prores"),
    "animation.mov": ("qtrle", "argb", ".mov", "prores"),
    "png.mov": ("png", "rgba", ".mov", "prores"),
    "web.webm": ("libvpx-vp9", "yuva420p", ".webm", "vp9"),
    "old.webm": ("libvpx", "yuva420p", ".webm", "vp9"),
    "vp9.mkv": ("libvpx-vp9", "yuva420p", ".mkv", "ffv1"),
    "yuva.mkv": ("ffv1", "yuva422p10le", ".mkv", "ffv1"),
    "deep.mkv": ("ffv1", "gbrap12le", ".mkv", "ffv1"),
    "bgra.avi": ("ffv1", "bgra", ".avi", "ffv1"),
}


def layers(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = [frame.layers() for frame in VideoReader(path).decoded()]
    assert all(layer is not None for layer in found)
    return found  # type: ignore[return-value]


@case(
    "Files and streams",
    "transparent video: ProRes 4444, QuickTime Animation, PNG in MOV, VP8 and VP9 in WebM, FFV1",
    "colours are restored, transparency is carried untouched; .mov becomes ProRes 4444, .mkv and .avi FFV1, .webm VP9",
    "kept: the transparency of each pixel",
)
@pytest.mark.parametrize("name", list(TRANSPARENT))
def test_transparent_video_stays_transparent(tmp_path: Path, name: str) -> None:
    codec, pix_fmt, suffix, expected = TRANSPARENT[name]
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    source, output = transparent_video(tmp_path / name, codec, pix_fmt, options=options), tmp_path / f"out{suffix}"
    assert passed(source, output) == []
    assert probe(output).codec == expected
    before, after = layers(source), layers(output)
    assert len(before) == len(after) == 6
    for (colours, alpha), (restored, kept) in zip(before, after, strict=True):
        assert (alpha - kept).abs().max() <= 2 / 255
        assert ((colours - restored) * (alpha > 0)).abs().mean() < 2 / 255
    if suffix == ".webm":
        assert b"\x53\xc0\x81\x01" in output.read_bytes()  # AlphaMode, which players ask for


@case(
    "Files and streams",
    "transparent video written to a container or with a codec that has no transparency (MP4, H.264, AV1)",
    "it becomes opaque, and the file no longer says otherwise (ALPHA_MODE)",
    "told: the transparency is not kept, and what would keep it",
)
@pytest.mark.parametrize(("target", "codec"), [("b.mp4", "auto"), ("b.mkv", "h264"), ("b.webm", "av1")])
def test_lost_transparency_is_told(tmp_path: Path, target: str, codec: str) -> None:
    source = transparent_video(tmp_path / "a.webm", "libvpx-vp9", "yuva420p")
    assert check_output(source, tmp_path / target) is not None
    (lost,) = passed(source, tmp_path / target, codec=codec)
    assert lost.startswith("the transparency of a.webm")
    with av.open(str(tmp_path / target)) as container:
        assert not {"alpha_mode", "ALPHA_MODE"} & set(container.streams.video[0].metadata)


def test_an_alpha_channel_without_transparency_changes_nothing(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "argb"
        for picture in moving_picture(4, 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="argb")))
        container.mux(stream.encode(None))
    assert passed(tmp_path / "a.mov", tmp_path / "b.mov") == []
    assert probe(tmp_path / "b.mov").codec == "h264"


def test_transparency_that_begins_late_is_kept(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgba"
        for number, picture in enumerate(moving_picture(20, 64, 96)):
            alpha = np.full((64, 96, 1), 255 if number < 18 else 60, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.concatenate([picture, alpha], axis=2), format="rgba")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert passed(tmp_path / "a.mov", tmp_path / "b.mov") == []
    assert [round(alpha.mean().item() * 255) for _, alpha in layers(tmp_path / "b.mov")] == [255] * 18 + [60] * 2


def test_transparent_pictures_make_transparent_video_and_back(tmp_path: Path) -> None:
    for number, picture in enumerate(scene(5, 4, size=(64, 96))):
        store(tmp_path / "in" / f"{number}.png", picture)
    assert passed(tmp_path / "in", tmp_path / "b.mkv") == []
    assert passed(tmp_path / "b.mkv", tmp_path / "out") == ["the time stamps of b.mkv: pictures cannot hold them"]
    for one, other in zip(layers(tmp_path / "in"), layers(tmp_path / "out"), strict=True):
        assert torch.equal(one[1], other[1])
        assert (one[0] - other[0]).abs().max() <= 1 / 255


def test_hidden_colours_do_not_smear_into_what_shows() -> None:
    colours = torch.full((3, 32, 48), 0.7)
    alpha = torch.ones(32, 48)
    alpha[:, :20] = 0
    colours[:, :, :20] = 0
    seen = filled(colours, alpha)
    assert torch.allclose(seen, torch.full_like(seen, 0.7))  # no black edge for a network to draw
    restored = put_back(seen * 1.1, colours, alpha)
    assert torch.equal(restored[:, :, :20], colours[:, :, :20])
    multiplied = torch.full((3, 4, 4), 0.3)
    assert put_back(multiplied * 2, multiplied, torch.full((4, 4), 0.4)).max() <= 0.4 + 1e-6


def test_side_by_side_is_transparent_on_both_sides(tmp_path: Path) -> None:
    from kept import Same

    from metadeblur.pipeline.outputs import Job
    from metadeblur.pipeline.run import RunSettings, restore_file

    source = transparent_video(tmp_path / "a.mov", "png", "rgba")
    restore_file(Job(source, tmp_path / "b.mov", tmp_path / "side.mkv"), Same(), RunSettings(adapt=False))
    one, both = layers(source)[2][1], layers(tmp_path / "side.mkv")[2][1]
    assert torch.allclose(both, torch.cat([one, one], dim=1))


# Sound and other streams --------------------------------------------------------------------------------------------


def video_with_sound(path: Path, codec: str, video: str = "wmv2", container: str | None = None) -> Path:
    """A second of video with a tone of any codec."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(video, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        rate = 8000 if codec in ("gsm_ms", "g723_1", "adpcm_g726") else 44100
        sound = file.add_stream(codec, rate=rate, layout="mono" if rate == 8000 else "stereo")
        sound.bit_rate = 16000 if codec == "adpcm_g726" else 128000
        file.metadata["title"] = "summer"
        for number, picture in enumerate(moving_picture(25, 64, 96)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        size = sound.codec_context.frame_size or 1024
        formats = [known.name for known in sound.codec_context.codec.audio_formats or []]
        resampler = av.AudioResampler(format=formats[0], layout=sound.codec_context.layout, rate=rate)
        for start in range(0, rate - size, size):
            wave = (8000 * np.sin(np.arange(start, start + size) / 9)).astype(np.int16)[None]
            tone = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = rate, start, Fraction(1, rate)
            for ready in resampler.resample(tone):
                file.mux(sound.encode(ready))
        file.mux(sound.encode(None))
    return path


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        number = container.streams.audio[0].index
    return [data for _, _, _, data in video_packets(path)[number]]


@case(
    "Files and streams",
    "a WMV file, or another whose sound FFmpeg's table does not name for Matroska (WMA, ADPCM, GSM)",
    "it becomes .mkv by default, its sound copied packet for packet: writing is tried, not the table believed",
    "kept: sound, tags, times",
)
@pytest.mark.parametrize(
    ("codec", "name"), [("wmav2", "a.wmv"), ("wmav1", "a.asf"), ("adpcm_ms", "a.avi"), ("adpcm_yamaha", "a.avi")]
)
def test_sound_that_the_container_holds_against_the_table_is_kept(tmp_path: Path, codec: str, name: str) -> None:
    video = "wmv2" if name != "a.avi" else "mpeg4"
    source = video_with_sound(tmp_path / name, codec, video)
    folder = tmp_path / "it's | a [folder]"
    folder.mkdir()
    output = folder / "out.mkv"
    assert check_output(source, output) == ()
    assert passed(source, output) == []
    assert sound_of(output) == sound_of(source)
    assert len(VideoReader(output).times) == 25
    with av.open(str(output)) as container:
        assert container.metadata["title"] == "summer"
        assert container.streams.audio[0].codec_context.name == codec
        assert [frame.samples for frame in container.decode(audio=0)]


@case(
    "Files and streams",
    "a stream that the container asked for cannot hold",
    "refused before any work",
    "one line that names the stream and a container, of all that can be written, that holds it",
)
def test_every_container_is_considered(tmp_path: Path) -> None:
    source = video_with_sound(tmp_path / "a.wmv", "wmav2")
    with pytest.raises(MetadeblurError, match=r"stream 1 \(audio, wmav2\) of a\.wmv; write to \.mkv instead"):
        check_output(source, tmp_path / "b.mp4")


@case(
    "Files and streams",
    "sound with damaged packets that no container takes (broken ADTS heads in a transport stream)",
    "the rest of the sound is copied; ffmpeg -c copy gives up",
    "told: how many packets were left out",
)
def test_damaged_packets_of_sound_do_not_cost_the_rest(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.ts", 25, audio_tracks=1)
    data = bytearray(source.read_bytes())
    heads = [match.start() for match in re.finditer(rb"\xff\xf1\x4c", bytes(data))]
    for head in heads[10:14]:
        data[head + 1] = 0xF0  # with a checksum,
        data[head + 6] |= 3  # and four blocks
    source.write_bytes(data)
    before = len(packets_of(source))
    assert passed(source, tmp_path / "b.mkv") == ["4 packets of stream 1 (audio, aac), damaged in the source"]
    assert len(packets_of(tmp_path / "b.mkv")) == before - 4 > 30


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


# Video made into pictures -------------------------------------------------------------------------------------------


@case(
    "Files and streams",
    "a video held upright by a phone (rotation mark), written as a folder of pictures",
    "the pictures stand upright",
    "told: sound, subtitles, time stamps and so on, which pictures cannot hold",
)
def test_pictures_of_a_turned_video_stand_upright(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "a.mkv", 4, matrix=ROTATED_90, audio_tracks=1, subtitles=1, chapters=True, metadata={"title": "x"}
    )
    (lost,) = passed(source, tmp_path / "out")
    assert lost == (
        "the sound, the subtitles, the chapters, the tags and the time stamps of a.mkv: pictures cannot hold them"
    )
    lying, upright = read_clip(source)[1], read_clip(tmp_path / "out")[1]
    assert torch.allclose(upright, torch.rot90(lying, -1, (1, 2)), atol=1 / 254)


def test_mirrored_video_becomes_mirrored_pictures(tmp_path: Path) -> None:
    mirrored = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    source = make_video(tmp_path / "a.mp4", 3, matrix=mirrored, aspect=Fraction(4, 3))
    lost = passed(source, tmp_path / "out")
    assert any("4/3" in sentence for sentence in lost)
    assert torch.allclose(read_clip(tmp_path / "out")[0], read_clip(source)[0].flip(-1), atol=1 / 254)


# Marks in the stream ------------------------------------------------------------------------------------------------


def caption(number: int) -> bytes:
    """Two pairs of letters as EIA-608 has them in the stream."""
    return bytes([0xFC, 0x41 + number % 20, 0x61, 0xFD, 0x80, 0x80])


def sei(kind: int, content: bytes) -> bytes:
    """A message beside the picture, as H.264 has it in a stream with start codes."""
    escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)
    return b"\0\0\0\1\6" + bytes([kind, len(content)]) + escaped + b"\x80"


def with_captions(path: Path, frames: int = 16, *, more: bytes = b"", codec: str = "libx264") -> Path:
    """A raw stream of H.264 or H.265 in which each frame has its own caption."""
    with av.open(str(path), "w", format="h264" if codec == "libx264" else "hevc") as container:
        options = {"bf": "2", "preset": "ultrafast", "crf": "10", "x265-params": "log-level=none:bframes=2"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets = []
        for number, picture in enumerate(moving_picture(frames, 64, 96)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode(None)
    data = b""
    for packet in packets:
        content = b"\xb5\0\x31GA94\3" + bytes([0x42, 0xFF]) + caption(packet.pts or 0) + b"\xff"
        unit = sei(4, content) + more
        data += (unit if codec == "libx264" else unit.replace(b"\0\0\0\1\6", b"\0\0\0\1\x4e\1")) + bytes(packet)
    path.write_bytes(data)
    return path


def captions_of(path: Path) -> list[bytes | None]:
    with av.open(str(path)) as container:
        found = [frame.side_data.get("A53_CC") for frame in container.decode(video=0)]
    return [None if data is None else bytes(memoryview(data)) for data in found]


@case(
    "Files and streams",
    "captions in the picture stream (EIA-608, EIA-708), marks of the active part of the picture, user data",
    "they are written into the new stream of H.264 or H.265, frame by frame",
    "kept; told where the codec has no place for them",
)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(("target", "wanted"), [("b.mp4", "h264"), ("b.mkv", "h265"), ("b.mov", "auto")])
def test_captions_stay_with_their_frames(tmp_path: Path, codec: str, target: str, wanted: str) -> None:
    source = with_captions(tmp_path / ("a.h264" if codec == "libx264" else "a.h265"), codec=codec)
    before = captions_of(source)
    assert None not in before
    assert len(set(before)) == 16
    assert passed(source, tmp_path / target, codec=wanted) == []
    assert captions_of(tmp_path / target) == before


@pytest.mark.parametrize("target", ["b.webm", "b.avi", "pictures"])
def test_lost_captions_are_told(tmp_path: Path, target: str) -> None:
    source = with_captions(tmp_path / "a.h264", 6)
    lost = passed(source, tmp_path / target)
    assert any(sentence.startswith("the captions in its picture stream (EIA-608, EIA-708)") for sentence in lost)


def test_user_data_and_the_active_part_are_kept(tmp_path: Path) -> None:
    mine = bytes(range(16)) + b"\0\0\1 a position \0\0\0"
    active = b"\xb5\0\x31DTG1\x41\xfa"
    source = with_captions(tmp_path / "a.h264", 6, more=sei(5, mine) + sei(4, active))
    assert passed(source, tmp_path / "b.mp4") == []
    with av.open(str(tmp_path / "b.mp4")) as container:
        frames = list(container.decode(video=0))
    assert all(bytes(memoryview(frame.side_data["AFD"]))[0] == 10 for frame in frames)
    assert all(any(b"a position" in bytes(memoryview(data)) for data in frame.side_data) for frame in frames)


def boxed(path: Path, name: bytes, content: bytes) -> Path:
    """Add a box to the description of the picture stream of an MP4 file whose tables come last."""
    data = bytearray(path.read_bytes())
    box = struct.pack(">I4s", len(content) + 8, name) + content
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = data.index(parent, data.index(b"moov")) - 4 if parent != b"avc1" else entry
        data[place : place + 4] = struct.pack(">I", int.from_bytes(data[place : place + 4], "big") + len(box))
    end = entry + int.from_bytes(data[entry : entry + 4], "big") - len(box)
    data[end:end] = box
    path.write_bytes(data)
    return path


SPHERE = (
    struct.pack(">I4sI", 13, b"svhd", 0) + b"\0"
    + struct.pack(">I4s", 60, b"proj") + struct.pack(">I4sIiii", 24, b"prhd", 0, 5 << 16, 0, 0)
    + struct.pack(">I4sIIIII", 28, b"equi", 0, 0, 0, 0, 0)
)  # fmt: skip
DOLBY = bytes([1, 0, 5 << 1, 9 << 3 | 5]) + bytes(20)


@case(
    "Files and streams",
    "marks of 360-degree, stereo and Dolby Vision video, HDR10+ records, time codes of frames, profiles of video",
    "the picture is restored without what cannot be written again",
    "told: each kind by its name",
)
@pytest.mark.parametrize(
    ("name", "content", "word"),
    [(b"sv3d", SPHERE, "360-degree"), (b"st3d", b"\0\0\0\0\2", "stereo"), (b"dvvC", DOLBY, "Dolby Vision")],
)
def test_lost_marks_are_told(tmp_path: Path, name: bytes, content: bytes, word: str) -> None:
    source = boxed(make_video(tmp_path / "a.mp4", 5), name, content)
    lost = passed(source, tmp_path / "b.mp4")
    assert len(lost) == 1
    assert word in lost[0]
    assert any(word in sentence for sentence in passed(source, tmp_path / "pictures"))
