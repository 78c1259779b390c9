"""Clips in every kind that researchers have: recognised and handed back alike, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import metadeblur as md
from metadeblur.arrays import taken
from metadeblur.clip import as_clip
from metadeblur.imaging import psnr

Image = pytest.importorskip("PIL.Image")

FRAMES = np.random.default_rng(0).random((6, 40, 52, 3)).astype(np.float32)  # odd sides for the network's multiple
BYTES = (FRAMES * 255).round().astype(np.uint8)
TENSOR = torch.from_numpy(FRAMES).movedim(-1, 1).contiguous()


class Darker(nn.Module):
    """Half as bright, so that a result is told from what came in."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, blurred):
        return self.factor * blurred


def kinds():
    """Every kind of frames, by name: all show the same."""
    back = FRAMES[::-1].copy()[::-1]
    wide = np.zeros((6, 40, 104, 3), np.float32)
    wide[:, :, ::2] = FRAMES
    return {
        "bytes": BYTES,
        "floats": FRAMES,
        "doubles": FRAMES.astype(np.float64),
        "halves": FRAMES.astype(np.float16),
        "other byte order": FRAMES.astype(">f4"),
        "colours first": FRAMES.transpose(0, 3, 1, 2).copy(),
        "a view": FRAMES.transpose(0, 3, 1, 2),
        "negative strides": back,
        "a part": wide[:, :, ::2],
        "fortran": np.asfortranarray(FRAMES),
        "read-only": np.frombuffer(FRAMES.tobytes(), np.float32).reshape(FRAMES.shape),
        "tensor": TENSOR,
        "tensor, colours last": torch.from_numpy(FRAMES),
        "tensor of bytes": torch.from_numpy(BYTES).movedim(-1, 1),
        "tensor of doubles": TENSOR.double(),
        "tensor of halves": TENSOR.half(),
        "tensor of bfloats": TENSOR.bfloat16(),
        "tensor with gradient": TENSOR.clone().requires_grad_(),
        "flipped tensor": TENSOR.flip(0).flip(0),
        "list of arrays": list(BYTES),
        "tuple of arrays": tuple(FRAMES),
        "list of tensors": list(TENSOR),
        "pictures": [Image.fromarray(frame) for frame in BYTES],
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_is_recognised_and_comes_back_as_it_was(kind):
    frames = kinds()[kind]
    made = md.Clip(frames)
    assert (len(made), made.height, made.width) == (6, 40, 52)
    assert (made.frames - TENSOR).abs().max() < 4e-3
    restored = md.restore(Darker(), frames)
    assert type(restored) is type(frames)
    assert len(restored) == 6
    one, given = restored[0], frames[0]
    assert type(one) is type(given) or kind == "pictures"
    if kind == "pictures":
        assert (one.mode, one.size) == ("RGB", (52, 40))
    else:
        assert (one.shape, one.dtype) == (given.shape, given.dtype)
    assert not getattr(one, "requires_grad", False)

    seen = (md.Clip(restored).frames - 0.5 * TENSOR).abs().max()
    assert seen < 6e-3


def test_arrays_give_what_tensors_give_bit_for_bit():
    net = nn.Conv2d(3, 3, 5, padding=2)
    by_tensor = md.restore(net, TENSOR)
    assert np.array_equal(md.restore(net, FRAMES), by_tensor.movedim(1, -1).numpy())
    assert torch.equal(md.restore(net, md.Clip(TENSOR)).frames, by_tensor)


def test_an_array_is_not_changed_and_may_change_later():
    mine = FRAMES.copy()
    clip = md.Clip(mine)
    md.restore(Darker(), mine)
    assert np.array_equal(mine, FRAMES)
    mine[:] = 0
    assert torch.equal(clip.frames, TENSOR)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tensors_on_a_device_come_back_there():
    restored = md.restore(Darker(), TENSOR.cuda())
    assert restored.is_cuda
    assert md.Clip(TENSOR.cuda())[0].device.type == "cpu"


GREY, FOUR = FRAMES[..., 0], np.concatenate([FRAMES, FRAMES[..., :1]], -1)
NAN = FRAMES.copy()
NAN[3, 5, 5, 1] = np.nan
INFINITE = TENSOR.clone()
INFINITE[2, 0, 0, 0] = float("inf")

TRAPS = {
    "grey": (GREY, r"\(6, 40, 52\): these are grey; np.stack"),
    "grey tensor": (TENSOR[:, 0], r"grey; frames\[:, None\].repeat"),
    "grey with an axis": (GREY[..., None], r"grey; np.repeat\(frames, 3, -1\)"),
    "grey tensor with an axis": (TENSOR[:, :1], r"grey; frames.repeat_interleave\(3, 1\)"),
    "four channels": (FOUR, r"fourth channel .* frames\[..., :3\]"),
    "four channels first": (torch.from_numpy(FOUR).movedim(-1, 1), r"frames\[:, :3\]"),
    "a picture": (FRAMES[0], r"single picture is a clip as frames\[None\]"),
    "a picture as tensor": (TENSOR[0], r"single picture"),
    "a batch": (FRAMES[None], r"batch of clips"),
    "colours before frames": (TENSOR[:4].swapaxes(0, 1), "fourth|colours come first|three colours"),
    "colours first of all": (TENSOR.swapaxes(0, 1), r"frames.swapaxes\(0, 1\)"),
    "two colours": (FRAMES[..., :2], r"not \(6, 40, 52, 2\)"),
    "three pixels wide": (TENSOR[..., :3], "3 px wide or 3 px high"),
    "0 to 255": (FRAMES * 255, "go from 0.* to 25.*divide them by 255"),
    "0 to 255 as tensor": (TENSOR * 255, "divide them by 255"),
    "-1 to 1": (FRAMES * 2 - 1, r"\(frames \+ 1\) / 2"),
    "standardised": ((FRAMES - 0.45) / 0.225, "bring them into"),
    "of 16 bits": ((FRAMES * 65535).astype(np.uint16), "frames / 65535"),
    "of 16 bits as floats": (FRAMES * 65535, "float frames lie in"),
    "NaN": (NAN, r"frames\[3\] has values that are not numbers"),
    "infinite": (INFINITE, r"frames\[2\] has values that are not numbers"),
    "int64": (BYTES.astype(np.int64), r"frames of int64: .*frames.astype\(np.uint8\)"),
    "int64 tensor": (torch.from_numpy(BYTES.astype(np.int64)), r"frames.to\(torch.uint8\)"),
    "bool": (BYTES > 100, "frames of bool"),
    "bool tensor": (TENSOR > 0.5, "frames of bool"),
    "complex": (FRAMES.astype(np.complex64), "frames of complex64"),
    "objects": (np.array([FRAMES[0], FRAMES[0][:20]], dtype=object), "frames of object.*different sizes"),
    "words": (np.array(["a", "b"]), "frames of <U1"),
    "no frames": (FRAMES[:0], "no frames"),
    "no pixels": (FRAMES[:, :0], "no frames"),
    "an empty list": ([], "no frames"),
    "frames of two sizes": ([FRAMES[0], FRAMES[1][:20]], "of one size and kind"),
    "frames of two kinds": ([FRAMES[0], TENSOR[1]], "of one size and kind"),
    "bytes and floats": ([FRAMES[0], BYTES[1]], "of one size and kind"),
    "grey frames": (list(GREY), "grey ones need their channel three times"),
    "frames with four channels": (list(FOUR), "leave out the fourth channel"),
    "grey pictures": ([Image.fromarray(BYTES[0]).convert("L")] * 3, r"mode L: use picture.convert\('RGB'\)"),
    "pictures with alpha": ([Image.fromarray(BYTES[0]).convert("RGBA")] * 3, "mode RGBA"),
    "numbers": ([1, 2, 3], "a list of int is no clip"),
    "a path": ("shaky.mp4", r"is a path, not a clip: md.read_clip\('shaky.mp4'\).*md.restore_video"),
    "a list of paths": (["a.png", "b.png"], "list of paths"),
    "nothing": (None, "None is no clip"),
    "a number": (3, "a int is no clip"),
    "a generator": ((frame for frame in FRAMES), "generator .* list"),
    "a dictionary": ({"frames": FRAMES}, "a dict is no clip"),
    "a picture of Pillow": (Image.fromarray(BYTES[0]), "is no clip"),
    "a pair with its truth": (md.PairedClip(BYTES, BYTES), "holds the truth too: give its .blurred"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused_with_the_reason(trap):
    frames, said = TRAPS[trap]
    net = Darker()
    for call in (as_clip, lambda given: md.restore(net, given), lambda given: md.adapt(net, given, steps=1)):
        if trap == "a generator":
            frames = (frame for frame in FRAMES)
        if trap in ("a list of paths", "numbers") or call is as_clip or not isinstance(frames, list):
            with pytest.raises(md.MetadeblurError, match=said) as error:
                call(frames)
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 250


def test_several_clips_are_for_adapt_alone():
    for several in ([md.Clip(BYTES)] * 2, [BYTES] * 2, [TENSOR] * 2):
        with pytest.raises(md.MetadeblurError, match=r"one clip at a time|md\.adapt takes several"):
            md.restore(Darker(), several)


def test_a_little_overshoot_is_let_pass():
    assert taken(FRAMES * 1.04 - 0.02)[0].max() > 1.01


@pytest.mark.parametrize(
    "wrong", [np.zeros((40, 52, 3)), torch.zeros(40, 52, 3), torch.zeros(3, 4, 5, dtype=torch.int64)]
)
def test_sources_are_looked_at_once(wrong):
    class Source:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return wrong

    with pytest.raises(md.MetadeblurError, match=r"its frame 0 is|frames of int64"):
        md.Clip(Source(), name="mine")
    with pytest.raises(md.MetadeblurError, match=r"md.Clip\(frames\)"):
        md.restore(Darker(), Source())


def test_all_that_takes_a_clip_takes_arrays(tmp_path):
    md.write_clip(BYTES, tmp_path / "clip.mp4")
    md.write_clip(list(FRAMES), tmp_path / "frames")
    assert len(md.read_clip(tmp_path / "clip.mp4")) == len(md.read_clip(tmp_path / "frames")) == 6
    with pytest.raises(md.MetadeblurError, match="divide them by 255"):
        md.write_clip(FRAMES * 255, tmp_path / "no.mp4")
    assert not (tmp_path / "no.mp4").exists()
    pair = md.PairedClip(BYTES, TENSOR)
    assert (len(pair), pair.name) == (6, "clip")


def test_public_helpers_take_arrays():
    from metadeblur.adaptation import choose_support
    from metadeblur.guard import nothing_to_learn, sharp_already, sharp_at_times
    from metadeblur.reblur import fit_flow_reblurrer
    from metadeblur.restoration.windows import windows

    support = choose_support(BYTES, pairs=2, patch=32, generator=torch.Generator().manual_seed(0))
    assert len(support.train) == 2
    for look in (nothing_to_learn, sharp_already, sharp_at_times):
        look(BYTES)
        with pytest.raises(md.MetadeblurError, match="is a path"):
            look("shaky.mp4")
    assert fit_flow_reblurrer(BYTES, generator=torch.Generator().manual_seed(0)).describe()
    assert len(list(windows(FRAMES, 3))) == 6


def test_metrics_say_that_they_take_tensors():
    with pytest.raises(md.MetadeblurError, match=r"not ndarray and ndarray; md.Clip\(frames\).frames"):
        psnr(FRAMES, FRAMES)


def test_a_clip_is_shown_in_short():
    assert repr(md.Clip(BYTES, fps=24, name="mine")) == "Clip('mine', 6 frames of 52x40, 24 a second)"
