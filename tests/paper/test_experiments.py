"""The paper's experiments: its numbers beside ours, absent rows said, files written, stopped runs gone on with."""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from evaluated import write_clip
from safetensors import safe_open
from safetensors.torch import load_file, save

from metadeblur.cli.entry import main
from metadeblur.errors import MetadeblurError
from metadeblur.models.critic import Critic
from metadeblur.models.lite import Lite
from metadeblur.models.mimo_unet import MIMOUNet
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.weights import load_deblurrer, parameters_digest, save_deblurrer
from metadeblur.paper import runs
from metadeblur.paper.experiments import reproduce
from metadeblur.paper.figures import Curve, curves_figure
from metadeblur.paper.numbers import DATASETS, LOSSES, NETWORKS, TABLE_1, TABLE_2
from metadeblur.paper.runs import ReproduceSettings, make_plan
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.weights import save_reblurrer
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.extras import how_to_install

QUICK = {"steps": 1, "patch": 48, "frames": 5, "restoration": RestoreSettings(tile=0, precision="fp32", device="cpu")}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "val"
    write_clip(root / "fast", 7)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained small networks that give their input back, laid out as the trainings leave them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = MIMOUNet(blocks=1, channels=16).eval()
    torch.nn.init.zeros_(net.feat_extract[5].main[0].weight)
    torch.nn.init.zeros_(net.feat_extract[5].main[0].bias)
    reblurrer = NetworkReblurrer(
        ReblurNetwork(channels=8, units=1, width=16, blocks=1, heads=2).eval(), Critic((8, 8)).eval()
    )
    save_deblurrer(Lite(channels=(16, 16), encoder=(1, 1), decoder=(1,)).eval(), folder / "lite.safetensors", {})
    (folder / "meta" / "mimo-unet-plus").mkdir(parents=True)
    for path in (folder / "mimo-unet-plus.safetensors", folder / "meta" / "mimo-unet-plus" / "weights.safetensors"):
        save_deblurrer(net, path, {})
    for path in (folder / "reblurrer.safetensors", folder / "meta" / "mimo-unet-plus" / "reblurrer.safetensors"):
        save_reblurrer(reblurrer, path, {})
    return folder


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_papers_numbers_are_those_of_its_tables():
    assert set(TABLE_1) == {(network, data) for network in NETWORKS for data in DATASETS}
    assert TABLE_1["mimo-unet-plus", "dvd"] == ((29.43, 0.914), (29.70, 0.917))
    for network, (none, *_, both) in TABLE_2.items():
        assert TABLE_1[network, "dvd"][1][0] == both
        if network != "cdvd-tsp":  # the paper gives two baselines for it
            assert TABLE_1[network, "dvd"][0][0] == none
    assert all(meta[0] > base[0] for base, meta in TABLE_1.values())
    assert len(LOSSES) == len(TABLE_2["mprnet"])


def test_table_1_runs_what_is_there_and_says_what_is_not(weights, tmp_path):
    clips, out = tmp_path / "val", tmp_path / "out"
    for name, speed in (("slow", 2), ("fast", 7)):
        write_clip(clips / name, speed)
    settings = ReproduceSettings(small=True, weights=weights, networks=("lite", "mprnet"), apart=("fast",), **QUICK)
    said = []
    found = reproduce("table1", [clips], out, settings, say=said.append)
    table = rows(out / "table1_psnr.csv")
    *cells, average = table
    assert [(row["network"], row["data"]) for row in cells] == [
        (network, data) for network in ("lite", "MPRNet") for data in ("val but fast", "val: fast")
    ]
    flow = [float(row["flow (guarded)"]) - float(row["baseline"]) for row in cells[:2]]
    assert (average["network"], average["data"]) == ("average gain", "2 of 4 rows")
    assert float(average["flow (guarded)"]) == pytest.approx(sum(flow) / 2, abs=0.011)
    assert average["flow (guarded)"][0] in "+-"
    assert (average["meta"], average["meta, paper"]) == ("\u2013", "\u2013")
    assert table[0]["measured as"].startswith("reduced (0.0")
    assert "reblurrer reduced" in table[0]["measured as"]
    assert table[0]["measured as"].endswith("5 frames of each clip, patches of 48 px")
    ours, absent = table[0], table[2]
    slow = json.loads((out / "runs" / "val_but_fast" / "lite" / "base" / "slow.json").read_text())
    assert float(ours["baseline"]) == pytest.approx(slow["psnr"]["base"], abs=0.006)
    assert float(ours["blurred"]) == pytest.approx(slow["psnr"]["blurred"], abs=0.006)
    assert (ours["meta"], absent["baseline"]) == ("absent", "absent")
    assert float(ours["flow (guarded)"]) > 0
    assert any("weights import mprnet" in note for note in found.notes)
    assert any(note.startswith("meta of lite: absent") for note in found.notes)
    assert "on this machine; stopped, the same command goes on" in " ".join(said)
    assert "paper" not in "".join(row["baseline, paper"] for row in table)  # other clips, other numbers
    for ending in (".md", ".tex"):
        assert "MPRNet" in (out / f"table1_ssim{ending}").read_text()
    page = (out / "table1.html").read_text()
    assert "table1_psnr" in page
    assert "absent: MPRNet" in page
    record = json.loads((out / "table1.json").read_text())
    assert record["settings"]["small"] is True
    sums = record["networks"]["lite"]
    assert sums["weights"] == parameters_digest(load_deblurrer(weights / "lite.safetensors"))
    assert sums["reblurrer"] == hashlib.sha256((weights / "reblurrer.safetensors").read_bytes()).hexdigest()
    assert {"torch", "metadeblur"} <= set(record["versions"])
    assert record["machine"]["processor"]


@pytest.mark.slow
def test_the_papers_numbers_stand_beside_ours_on_its_data(tmp_path, weights):
    folder = tmp_path / "data" / "quantitative_datasets" / "IMG_0003"
    write_clip(folder, 3)
    for one, other in (("blur", "input"), ("sharp", "GT")):
        (folder / one).rename(folder / other)
    settings = ReproduceSettings(weights=weights, networks=("mimo-unet-plus",), **QUICK)
    found = reproduce("table1", [tmp_path / "data"], tmp_path / "out", settings)
    dvd, reds, _, average = rows(tmp_path / "out" / "table1_psnr.csv")
    assert (average["data"], average["meta, paper"]) == ("1 of 3 rows", "+0.27")
    assert float(average["meta"]) == pytest.approx(float(dvd["meta"]) - float(dvd["baseline"]), abs=0.011)
    assert (dvd["baseline, paper"], dvd["meta, paper"]) == ("29.43", "29.70")
    assert float(dvd["meta"]) > 0
    assert (reds["baseline, paper"], reds["baseline"]) == ("26.43", "absent")
    assert rows(tmp_path / "out" / "table1_ssim.csv")[2]["meta, paper"] == "0.851"
    assert any("RealBlur-J: its folder is not in" in note for note in found.notes)
    assert any("the published set has 10 with 1,000" in note for note in found.notes)
    run = json.loads((tmp_path / "out" / "runs" / "DVD" / "MIMO-UNet+" / "meta" / "summary.json").read_text())
    assert "BT.601 luma" in run["conditions"]["measure"]
    adapted = run["conditions"]["adapt"]
    assert (adapted["reblur"], adapted["lr"], adapted["passes"], adapted["guard"]) == ("network", 2.5e-6, 1, False)


@pytest.mark.slow
def test_table_2_compares_the_losses(clips, weights, tmp_path):
    settings = ReproduceSettings(small=True, weights=weights, networks=("mimo-unet-plus", "lite"), **QUICK)
    found = reproduce("table2", [clips], tmp_path / "out", settings)
    plus, lite = rows(tmp_path / "out" / "table2.csv")
    assert all(float(plus[loss]) > 0 for loss in (*LOSSES, "not fitted"))
    assert (plus["start"], lite["start"]) == ("meta-trained", "pre-trained")
    unfitted = json.loads((tmp_path / "out/runs/val/MIMO-UNet+/meta-none/fast.json").read_text())
    assert unfitted["conditions"]["adapt"]["updates"]["losses"] == "none"
    for loss in ("cycle", "gan"):
        run = json.loads((tmp_path / "out/runs/val/MIMO-UNet+" / f"meta-{loss}" / "fast.json").read_text())
        assert run["conditions"]["adapt"]["updates"]["losses"] == loss
    assert float(lite["both"]) > 0
    assert "lite: without meta-trained weights, the pre-trained ones are fine-tuned" in found.notes


@pytest.mark.slow
def test_figure_6_draws_every_way_over_the_number_of_pairs(clips, weights, tmp_path):
    settings = ReproduceSettings(
        small=True, weights=weights, networks=("mimo-unet-plus",), pairs=(1, 2), seeds=2, **QUICK
    )
    reproduce("figure6", [clips], tmp_path / "out", settings)
    table = {row["way"]: row for row in rows(tmp_path / "out" / "figure6.csv")}
    assert list(table) == ["baseline", "meta", "fine-tuning", "flow"]
    assert "\u00b1" in table["meta"]["M = 2"]
    record = json.loads((tmp_path / "out/runs/val/MIMO-UNet+/finetune-M2-seed1/fast.json").read_text())
    assert len(record["adaptation"]["pairs"]) == 2
    assert record["conditions"]["adapt"]["seed"] == 1
    picture = cv2.imread(str(tmp_path / "out" / "figure6_val_MIMO-UNet+.png"))
    assert picture.shape[0] > 300
    assert picture.std() > 5


@pytest.mark.slow
def test_figure_5_shows_the_pieces_side_by_side(clips, weights, tmp_path):
    settings = ReproduceSettings(small=True, weights=weights, networks=("mimo-unet-plus",), **QUICK)
    found = reproduce("figure5", [clips], tmp_path / "out", settings)
    (name,) = found.pictures
    shown = cv2.imread(str(tmp_path / "out" / f"{name}.png"))
    focus = json.loads((tmp_path / "out/runs/val/MIMO-UNet+/base/fast.json").read_text())["focus"]
    assert shown.shape[1] == 5 * focus["side"] + 4 * 4  # blurred, baseline, meta, flow, truth
    truth = cv2.imread(str(clips / "fast" / "sharp" / f"{focus['frame']:03d}.png"))
    piece = truth[focus["top"] : focus["top"] + focus["side"], focus["left"] : focus["left"] + focus["side"]]
    assert np.array_equal(shown[-focus["side"] :, -focus["side"] :], piece)
    blurred = cv2.imread(str(clips / "fast" / "blur" / f"{focus['frame']:03d}.png"))
    whole = shown[: blurred.shape[0], : blurred.shape[1]]
    outside = np.ones(blurred.shape[:2], bool)
    low, high = focus["top"] - 2, focus["top"] + focus["side"] + 3
    outside[max(low, 0) : high, max(focus["left"] - 2, 0) : focus["left"] + focus["side"] + 3] = False
    assert outside.any()
    assert np.array_equal(whole[outside], blurred[outside])  # a whole frame, not a piece


@pytest.mark.slow
def test_a_network_that_does_not_better_its_input_is_left_out_and_said(clips, weights, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    worse = load_deblurrer(weights / "mimo-unet-plus.safetensors")
    torch.nn.init.constant_(worse.feat_extract[5].main[0].bias, 0.1)
    save_deblurrer(worse, folder / "mimo-unet-plus.safetensors", {})
    (folder / "lite.safetensors").write_bytes((weights / "lite.safetensors").read_bytes())
    settings = ReproduceSettings(small=True, weights=folder, networks=("mimo-unet-plus", "lite"), pairs=(1,), **QUICK)
    for name in ("table1", "table2", "figure6"):
        found = reproduce(name, [clips], tmp_path / "out", settings)
        shown = {line[0] for lines in found.tables.values() for line in lines[1:]}
        assert shown - {"average gain"} == {"lite"}, name
        (note,) = (note for note in found.notes if "left out" in note)
        assert note.startswith("MIMO-UNet+ on val is left out: its base is ")
    whole = ReproduceSettings(weights=folder, networks=("mimo-unet-plus",), **QUICK)
    dvd = tmp_path / "data" / "quantitative_datasets" / "IMG_0003"
    write_clip(dvd, 3)
    for one, other in (("blur", "input"), ("sharp", "GT")):
        (dvd / one).rename(dvd / other)
    found = reproduce("table1", [tmp_path / "data"], tmp_path / "whole", whole)  # on the paper's data nothing is hidden
    assert any("its base is below the blurred input by" in note for note in found.notes)
    assert float(rows(tmp_path / "whole" / "table1_psnr.csv")[0]["baseline"]) > 0


@pytest.mark.slow
def test_cells_of_other_networks_are_measured_again(clips, weights, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    settings = ReproduceSettings(small=True, weights=folder, networks=("mimo-unet-plus",), flow=False, **QUICK)
    table1, runs_folder = tmp_path / "out" / "table1.json", tmp_path / "out/runs/val/MIMO-UNet+"
    reproduce("table1", [clips], tmp_path / "out", settings)
    first = json.loads(table1.read_text())
    assert "flow (guarded)" not in first["tables"]["table1_psnr"][0]
    assert not (runs_folder / "flow").exists()
    kept = (runs_folder / "base" / "fast.json").stat().st_mtime_ns
    path = folder / "meta" / "mimo-unet-plus" / "reblurrer.safetensors"
    path.write_bytes(changed(path))
    said = []
    found = reproduce("table1", [clips], tmp_path / "out", settings, say=said.append)
    assert any("meta/fast.json: its networks were changed since" in line for line in said)
    assert not any("absent" in note for note in found.notes)
    again, before = (record["networks"]["MIMO-UNet+"] for record in (json.loads(table1.read_text()), first))
    assert {part for part in again if again[part] != before[part]} == {"meta reblurrer"}
    assert (runs_folder / "base" / "fast.json").stat().st_mtime_ns == kept
    with pytest.raises(MetadeblurError, match=r"measured under other settings; give another folder with -o$"):
        reproduce("table1", [clips], tmp_path / "out", replace(settings, frames=4))


def changed(path):
    """A weight file's bytes with one tensor a little larger."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    return save(tensors | {name: tensors[name] * 1.01}, metadata)


def test_the_built_in_reblurrer_never_stands_in_for_the_papers(tmp_path, clips, weights):
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("lite", "mimo-unet-plus"):
        shutil.copy(weights / f"{name}.safetensors", folder)
    whole = make_plan([tmp_path], tmp_path / "out", ReproduceSettings(weights=folder), lambda _: None)
    absent = whole.reblurrer("lite", meta=False)
    assert "reblurrer.safetensors is not in the folder of --weights" in absent.reason
    settings = ReproduceSettings(small=True, weights=folder, networks=("mimo-unet-plus",))
    small = make_plan([clips], tmp_path / "out", settings, lambda _: None)
    assert small.reblurrer("mimo-unet-plus", meta=False) == ""
    assert "reblurrer reduced (1.77 M parameters), told the motion" in small.measured_as("MIMO-UNet+")
    assert small.measured_as("MIMO-UNet+").endswith("8 frames of each clip, patches of 96 px")


def test_a_stopped_experiment_goes_on_where_it_was(clips, weights, tmp_path, monkeypatch):
    settings = ReproduceSettings(small=True, weights=weights, networks=("lite",), **QUICK)
    evaluate, done = runs.evaluate, []

    def stopped(benchmark, net, out, *arguments, **keywords):
        done.append(out.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return evaluate(benchmark, net, out, *arguments, **keywords)

    monkeypatch.setattr(runs, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table1", [clips], tmp_path / "out", settings)
    before = (tmp_path / "out" / "runs" / "val" / "lite" / "base" / "fast.json").stat().st_mtime_ns
    reproduce("table1", [clips], tmp_path / "out", settings)
    assert (tmp_path / "out" / "runs" / "val" / "lite" / "base" / "fast.json").stat().st_mtime_ns == before
    assert done == ["base", "flow", "base", "flow"]


def test_nothing_to_run_on_is_one_line(tmp_path):
    with pytest.raises(MetadeblurError, match=r"table1: no data and weights to run on; DVD: its folder is not in"):
        reproduce("table1", [tmp_path], tmp_path / "out")
    with pytest.raises(MetadeblurError, match="experiment 'table3'"):
        reproduce("table3", [tmp_path], tmp_path / "out")
    for wrong in ({"seeds": 0}, {"pairs": (0,)}):
        with pytest.raises(MetadeblurError, match="from 1 to"):
            ReproduceSettings(**wrong)


def test_the_command(clips, weights, tmp_path, capsys):
    words = ["reproduce", "table1", "--root", str(clips), "--small", "--networks", "lite", "--device", "cpu"]
    words += ["--weights", str(weights)]
    words += ["--steps", "1", "--patch", "48", "--frames", "5", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    heard = capsys.readouterr()
    assert "| lite | val |" in heard.out
    assert "Table 1" in heard.out
    assert "lite on val: flow" in heard.err
    assert main([*words[:2], "--root", str(tmp_path / "nowhere"), "--small", "-o", str(tmp_path / "x")]) == 1
    assert main(["reproduce", "table1", "--root", str(clips), "-o", "x", "--pairs", "five"]) == 2
    assert main(["reproduce", "table9", "--root", str(clips), "-o", "x"]) == 2


def test_curves_need_matplotlib_and_say_so(monkeypatch):
    curve = Curve("flow", [2, 4], [25.0, 26.0])
    assert curves_figure([curve], title="t", x_title="x", y_title="y").startswith(b"\x89PNG")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MetadeblurError, match=re.escape(how_to_install("figures"))):
        curves_figure([curve], title="t", x_title="x", y_title="y")
