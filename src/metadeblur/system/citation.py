"""How to cite this program and the paper whose method it implements; ``CITATION.cff`` says the same."""

from __future__ import annotations

from metadeblur.version import __version__

PAPER, PROGRAM = "liu2022meta", "metadeblur"
"""Keys of the two entries."""


def bibtex() -> str:
    """Both entries as BibTeX, the paper first.

    >>> bibtex().splitlines()[0]
    '@inproceedings{liu2022meta,'
    """
    return f"""\
@inproceedings{{{PAPER},
  title = {{Meta Transferring for Deblurring}},
  author = {{Liu, Po-Sheng and Tsai, Fu-Jen and Peng, Yan-Tsung and Tsai, Chung-Chi and Lin, Chia-Wen and Lin, Yen-Yu}},
  booktitle = {{British Machine Vision Conference (BMVC)}},
  year = {{2022}},
  note = {{arXiv:2210.08036}},
}}

@misc{{{PROGRAM},
  title = {{metadeblur}},
  author = {{{{The metadeblur authors}}}},
  year = {{2026}},
  note = {{Version {__version__}, Apache-2.0}},
}}
"""
