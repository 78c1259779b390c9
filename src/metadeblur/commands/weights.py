"""``metadeblur weights``: the weight files that are installed."""

from __future__ import annotations

from dataclasses import dataclass

from metadeblur.errors import MetadeblurError


@dataclass(frozen=True)
class WeightsList:
    """List the weight files that are installed: name, size, checksum, place."""

    def run(self) -> None:
        """Print one line a file."""
        from metadeblur.weights import BUILT_IN, built_in_path, checksum

        for name in BUILT_IN:
            path = built_in_path(name)
            if path.is_file():
                print(f"{name:<12}{path.stat().st_size / 1e6:6.2f} MB  sha256 {checksum(path)[:16]}  {path}")
            else:
                print(f"{name:<12}missing  {path}")


@dataclass(frozen=True)
class WeightsVerify:
    """Check the installed weight files against the checksums on their model cards."""

    def run(self) -> None:
        """Print one line a file.

        Raises:
            MetadeblurError: a file is missing, damaged or not the one that its card describes.
        """
        from metadeblur.weights import BUILT_IN, built_in_path, checksum, load_deblurrer, model_card

        wrong = []
        for name in BUILT_IN:
            path = built_in_path(name)
            expected = str(model_card(name).get("sha256", "")) if path.with_suffix(".json").is_file() else ""
            if not path.is_file():
                fault = "missing"
            elif checksum(path) != expected:
                fault = f"its checksum is {checksum(path)[:16]}, its card says {expected[:16] or 'nothing'}"
            else:
                load_deblurrer(name)
                fault = ""
            print(f"{name:<12}{fault or 'good'}")
            wrong += [f"{name}: {fault}"] if fault else []
        if wrong:
            raise MetadeblurError(f"{'; '.join(wrong)}; install metadeblur again")
