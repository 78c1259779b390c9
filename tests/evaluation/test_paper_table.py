"""The table that goes into a paper, and what it cites."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from evaluated import clip_record, method_summary, summary_of

from metadeblur import __version__
from metadeblur.evaluation.paper_table import paper_table
from metadeblur.evaluation.report import write_tables
from metadeblur.evaluation.tables import latex
from metadeblur.system.citation import bibtex

ROOT = Path(__file__).parents[2]
FIGURES = {
    "psnr": {"blurred": 25.0, "base": 26.5, "adapted": 27.004, "oracle": 28.0},
    "ssim": {"blurred": 0.81, "base": 0.85, "adapted": 0.84},
    "flicker": {"blurred": 0.0, "base": 0.4},
}
CONDITIONS = {"model": "nafnet-32", "weights": "0123", "measure": "PSNR over RGB, SSIM of luma: a 50 % rule"}


def summary(**values):
    versions = {"metadeblur": "1.2", "commit": "abcdef"}
    return summary_of(**FIGURES, layout="gopro", conditions=CONDITIONS, versions=versions, **values)


def balanced(text: str) -> bool:
    """Whether every environment and every brace is closed, and no sign of LaTeX's stands by itself."""
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[%&$#_{}\\]", "", body)
    rows = [line.count("&") for line in plain.splitlines() if "&" in line]
    return (
        sorted(begun) == sorted(ended)
        and plain.count("{") == plain.count("}")
        and "%" not in plain
        and len(set(rows)) == 1
    )


def test_it_is_ready_to_be_included():
    text = paper_table(summary())
    assert balanced(text)
    head, *rest = [line.strip() for line in text.splitlines() if not line.startswith("%")]
    assert (head, rest[-1]) == (r"\begin{table}", r"\end{table}")
    assert r" & PSNR (dB) $\uparrow$ & SSIM $\uparrow$ & Flicker $\downarrow$ \\" in text
    assert r"base & 26.50 & \textbf{0.8500} & \textbf{0.40} \\" in text
    assert r"adapted & \textbf{27.00} & 0.8400 & -- \\" in text
    assert r"oracle & 28.00 & -- & -- \\" in text  # never the best
    assert r"\label{tab:gopro-nafnet-32}" in text
    assert "1 clip (6 frames) of GoPro by nafnet-32, adapted to each clip" in text
    assert "PSNR over RGB, SSIM of luma." in text
    assert "% Made by metadeblur 1.2, commit abcdef, weights 0123." in text
    assert "% Cite the network too: Chen et al., Simple Baselines" in text


def test_what_it_cites_is_there():
    keys = re.search(r"\\cite{([^}]*)}", paper_table(summary()))[1].split(",")
    assert re.findall(r"^@\w+{(\w+),$", bibtex(), re.MULTILINE) == ["liu2022meta", "metadeblur"]
    assert sorted(keys) == ["liu2022meta", "metadeblur"]


def test_the_citation_is_that_of_the_citation_file():
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper, program = bibtex().split("\n\n")
    (cited,) = known["references"]
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in cited["authors"])
    assert f"author = {{{authors}}}" in paper
    assert f"title = {{{cited['title']}}}" in paper
    assert f"year = {{{cited['year']}}}" in paper
    assert cited["identifiers"][0]["value"] in paper
    assert f"title = {{{known['title']}}}" in program
    assert known["authors"][0]["name"] in program
    assert f"Version {__version__}, {known['license']}" in program


def test_methods_have_a_row_each():
    methods = {name: method_summary(psnr={"adapted": value}) for name, value in (("flow", 27.0), ("self_a", 26.0))}
    text = paper_table(summary(methods=methods))
    assert balanced(text)
    assert r"adapted (flow) & \textbf{27.00}" in text
    assert r"adapted (self\_a) & 26.00" in text


def test_strange_names_are_printed_as_they_are(tmp_path):
    odd = {"model": r"C:\my_nets\50%~a^b{}.safetensors", "methods": ["flow"]}
    text = paper_table(summary_of(**FIGURES, conditions=odd))
    assert balanced(text)
    assert (
        r"C:\textbackslash{}my\_nets\textbackslash{}50\%\textasciitilde{}a\textasciicircum{}b\{\}.safetensors" in text
    )
    assert r"1.10 $\pm$ 0.14" in latex([["clip", "gain"], ["a", "1.10 ± 0.14"]])
    record = clip_record(**FIGURES, conditions=odd)
    write_tables([record], summary_of(**FIGURES, conditions=odd), tmp_path)
    assert (tmp_path / "paper.tex").read_text() == text
    assert (tmp_path / "citation.bib").read_text() == bibtex()
