"""Finished shots of a restoration that is under way, kept beside the output so that ``--resume`` can go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metadeblur.record import plain, to_json, write_whole

HEAD_BYTES = 1 << 20  # of a file that are read to recognise it again
STATE_FORMAT = 1  # of state.json; another one is not continued


def parts_folder(output: Path) -> Path:
    """The folder that holds the finished shots of ``output`` while it is being made.

    >>> parts_folder(Path("films/out.mp4")).as_posix()
    'films/.out.mp4.metadeblur-parts'
    """
    return output.with_name(f".{output.name}.metadeblur-parts")


def part_path(folder: Path, kind: str, index: int, suffix: str = "") -> Path:
    """Where the file of one kind for one shot belongs in a folder of parts.

    >>> part_path(Path("parts"), "shot", 3).as_posix()
    'parts/shot-00003'
    """
    return folder / f"{kind}-{index:05d}{suffix}"


def identify(source: Path) -> str:
    """What an input file or folder of frames is recognised by: sizes, times of change, names, first bytes."""
    return identify_files(sorted(source.iterdir()) if source.is_dir() else [source])


def identify_files(files: Iterable[Path]) -> str:
    """The same for files in order; what is no file does not count."""
    digest = hashlib.sha256()
    for number, path in enumerate(files):
        if not path.is_file():
            continue
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        if number == 0:
            with path.open("rb") as file:
                digest.update(file.read(HEAD_BYTES))
    return digest.hexdigest()[:16]


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, where two fingerprints differ; empty where they do not.

    >>> differences({"steps": 40, "seed": 0}, {"steps": 20, "seed": 0})
    'steps was 40, is 20'
    """
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys)


@dataclass
class Parts:
    """The finished shots of one output and their records, in a folder of their own.

    ``state.json`` is rewritten, whole or not at all, after each shot; a shot counts as finished when it is listed
    there and its files are in the folder.
    """

    folder: Path
    fingerprint: dict[str, Any]
    state: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, output: Path, fingerprint: dict[str, Any], *, resume: bool) -> tuple[Parts, str]:
        """The parts of ``output``, those of an earlier run where ``resume`` and its fingerprint is the same.

        Returns:
            the parts, and one line for the user on what became of an earlier run's parts (empty: nothing to say).
        """
        folder, line = parts_folder(output), ""
        fingerprint = plain(fingerprint)
        earlier = _read_state(folder)
        if earlier is not None and resume:
            changed = differences(earlier["fingerprint"], fingerprint)
            if not changed:
                parts = cls(folder, fingerprint, earlier)
                return parts, f"resuming {output.name}: {len(earlier['shots'])} shots are finished already"
            line = f"cannot resume {output.name}: {changed}; starting anew"
        elif earlier is not None and earlier["shots"]:
            line = f"dropping {len(earlier['shots'])} finished shots of an earlier run (--resume would have used them)"
        elif resume:
            line = f"nothing to resume for {output.name}: starting anew"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        parts = cls(folder, fingerprint, {"fingerprint": fingerprint, "shots": {}})
        return parts, line

    def path(self, kind: str, index: int, suffix: str = "") -> Path:
        """Where the file of one kind for one shot belongs."""
        return part_path(self.folder, kind, index, suffix)

    @property
    def finished(self) -> int:
        """Number of finished shots."""
        return len(self.state["shots"])

    def shot(self, index: int) -> dict[str, Any] | None:
        """The record of a finished shot, None where it is not finished."""
        found: dict[str, Any] | None = self.state["shots"].get(str(index))
        return found

    def finish(self, index: int, record: dict[str, Any]) -> None:
        """Note that a shot is finished; its files must be complete."""
        self.state["shots"][str(index)] = plain(record)
        self._write()

    def noted(self, key: str) -> Any:
        """What this run or an earlier one noted under ``key``, None where nothing was."""
        return self.state.get(key)

    def note(self, key: str, value: Any) -> None:
        """Note something that a resumed run must know, such as the tile that was chosen."""
        self.state[key] = plain(value)
        self._write()

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self) -> None:
        state = {"format": STATE_FORMAT, **self.state}
        write_whole(self.folder / "state.json", to_json(state).encode())


def _read_state(folder: Path) -> dict[str, Any] | None:
    """The state that an earlier run left behind, None where there is none of any use."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    return state if whole and isinstance(state.get("shots"), dict) and "fingerprint" in state else None
