"""The cards of ``cards/``, in the form of model hubs: of the weights that ship, and of the built-in benchmark.

    python tests/helpers/published_cards.py

makes them of the cards for programs in ``src/metadeblur/assets``.
"""

from __future__ import annotations

from pathlib import Path

from metadeblur.evaluation.builtin_card import dataset_card
from metadeblur.models.cards import shipped_card
from metadeblur.models.weights import BUILT_IN, BUILT_IN_REBLURRERS, built_in_path, card_beside

CARDS = Path(__file__).parents[2] / "cards"


def cards() -> dict[Path, str]:
    """Every card by its file."""
    names = (*BUILT_IN, *BUILT_IN_REBLURRERS)
    made = {CARDS / name / "README.md": shipped_card(card_beside(built_in_path(name))) for name in names}
    return made | {CARDS / "builtin" / "README.md": dataset_card()}


if __name__ == "__main__":
    for path, text in cards().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
