"""Checkpoints of others: every published wrapping is taken off, and nothing in a file is ever run."""

import os
import pickle

import pytest
import torch

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.checkpoints import read_checkpoint

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}
PREFIXED = {f"module.{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("saved", "wrapping"),
    [
        (WEIGHTS, "flat"),
        (PREFIXED, "'module.' prefix"),
        ({"model": WEIGHTS, "epoch": 3}, "{'model': ...}"),
        ({"state_dict": PREFIXED, "optimizer": {"lr": 1e-4}}, "{'state_dict': ...}, 'module.' prefix"),
        ({"params": WEIGHTS}, "{'params': ...}"),
        ({"model": {"state_dict": WEIGHTS}}, "{'model': ...}, {'state_dict': ...}"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_published_wrappings_are_taken_off(tmp_path, saved, wrapping, legacy):
    torch.save(saved, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(tmp_path / "net.pth")
    assert checkpoint.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(checkpoint.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert checkpoint.wrapping == wrapping


def test_averaged_weights_are_preferred(tmp_path):
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "net.pth")
    assert read_checkpoint(tmp_path / "net.pth").weights["a"] == 1


class _Trap:
    """What a hostile checkpoint holds: unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused(tmp_path, kind):
    trap, file = tmp_path / "trapped", tmp_path / "net.pth"
    hostile = {"state_dict": {**WEIGHTS, "conv.extra": _Trap(trap)}}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        torch.save(hostile, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(MetadeblurError, match=r"net\.pth: refused"):
        read_checkpoint(file)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"epoch": 3, "lr": 0.1}, r"holds 'epoch', 'lr', no tensors"),
        ({"state_dict": {**WEIGHTS, "epoch": 3}}, r"holds 'epoch', no tensors"),
        ({}, "holds nothing"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
    ],
)
def test_files_without_weights_say_what_they_hold(tmp_path, saved, said):
    torch.save(saved, tmp_path / "net.pth")
    with pytest.raises(MetadeblurError, match=said):
        read_checkpoint(tmp_path / "net.pth")


def test_damaged_and_missing_files(tmp_path):
    torch.save(WEIGHTS, tmp_path / "net.pth")
    data = (tmp_path / "net.pth").read_bytes()
    for broken in (data[: len(data) // 2], b"hello", b""):
        (tmp_path / "broken.pth").write_bytes(broken)
        with pytest.raises(MetadeblurError, match=r"broken\.pth: (not a PyTorch checkpoint|refused)"):
            read_checkpoint(tmp_path / "broken.pth")
    with pytest.raises(MetadeblurError, match="cannot be read"):
        read_checkpoint(tmp_path / "absent.pth")
