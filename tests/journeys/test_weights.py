"""The journey of published weights through the installed command: imported, listed, verified, used, refused."""

import json

import pytest
from journey import QUICK, decoded, names, shaky_video, start
from published import maxim_package, small_maxim


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METADEBLUR_WEIGHTS", str(tmp_path / "kept"))
    return tmp_path / "kept"


def ended(*words) -> tuple[int, str, str]:
    """Run the installed command to its end: exit code, stdout, stderr."""
    process = start(words)
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


@pytest.mark.slow
def test_import_list_verify_restore(tmp_path, folder):
    package = maxim_package(tmp_path / "maxim.tgz", small_maxim())
    code, out, error = ended("weights", "import", "maxim", package)
    assert code == 0, error
    assert "licence: Apache-2.0 (weights), MIT (package)" in out
    assert names(folder) == ["maxim.json", "maxim.safetensors"]
    code, out, _ = ended("weights", "list")
    assert code == 0
    assert "maxim           imported" in out
    assert "from maxim.tgz" in out
    video, record = shaky_video(tmp_path / "a.mp4", (6,)), tmp_path / "r.json"
    code, _, error = ended("restore", video, "--model", "maxim", *QUICK, "--json", record)
    assert code == 0, error
    assert decoded(tmp_path / "a_deblurred.mp4").shape == decoded(video).shape
    assert len(json.loads(record.read_text())["shots"][0]["losses"]) == 2
    weights = folder / "maxim.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, out, error = ended("weights", "verify")
    assert code == 1
    assert "lite            good" in out
    assert "metadeblur weights import maxim FILE" in error
    assert error.count("\n") == 1


def test_a_refused_file_leaves_nothing(tmp_path, folder):
    (tmp_path / "net.pth").write_bytes(b"no checkpoint")
    code, out, error = ended("weights", "import", "mprnet", tmp_path / "net.pth")
    assert (code, out) == (1, "")
    assert error.startswith("metadeblur: error: ")
    assert error.count("\n") == 1
    assert not folder.exists()
