"""Finished shots of a restoration that is under way, kept beside the output so that ``--resume`` can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.system.files import flush, flush_names
from metadeblur.system.identity import checksum_of, is_whole, sealed
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.json_files import plain, write_whole
from metadeblur.system.locks import beside, lock_path, writing
from metadeblur.system.names import counted

STATE_FORMAT = 2  # of state.json; another one is not continued


def parts_folder(output: Path) -> Path:
    """The folder that holds the finished shots of ``output`` while it is being made.

    >>> parts_folder(Path("films/out.mp4")).as_posix()
    'films/.out.mp4.metadeblur-parts'
    """
    return beside(output, "metadeblur-parts")


def finished(shots: int) -> str:
    """So many shots are finished.

    >>> finished(1), finished(2)
    ('1 shot is finished', '2 shots are finished')
    """
    return f"{counted(shots, 'shot')} {'is' if shots == 1 else 'are'} finished"


def kept(shots: int) -> str:
    """So many finished shots are kept.

    >>> kept(1), kept(2)
    ('1 finished shot is kept', '2 finished shots are kept')
    """
    return f"{counted(shots, 'finished shot')} {'is' if shots == 1 else 'are'} kept"


def part_path(folder: Path, kind: str, index: int, suffix: str = "") -> Path:
    """Where the file of one kind for one shot belongs in a folder of parts.

    >>> part_path(Path("parts"), "shot", 3).as_posix()
    'parts/shot-00003'
    """
    return folder / f"{kind}-{index:05d}{suffix}"


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

    ``state.json`` is rewritten, whole or not at all, after each shot. A shot counts as finished when its record stands
    there with the checksums of its files, and the disk holds them. Of an earlier run only what verifies is used.
    """

    folder: Path
    fingerprint: dict[str, Any]
    shots: dict[int, dict[str, Any]] = field(default_factory=dict)  # {"record": ..., "files": {name: checksum}}
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, output: Path, fingerprint: dict[str, Any], *, resume: bool) -> tuple[Parts, list[str]]:
        """The parts of ``output``, those of an earlier run where ``resume`` and its fingerprint is the same.

        Returns:
            the parts, and lines for the user about an earlier run's parts.
        """
        folder, lines = parts_folder(output), []
        fingerprint = plain(fingerprint)
        head, shots, count = _read_state(folder)
        if head is not None and resume:
            changed = differences(head["fingerprint"], fingerprint)
            if not changed:
                parts = cls(folder, fingerprint, shots, head["notes"])
                damaged = count - len(shots) + parts.drop_damaged()
                if damaged:
                    those = counted(damaged, "finished shot")
                    lines = [f"{those} of {output.name} {'is' if damaged == 1 else 'are'} damaged: made again"]
                return parts, [*lines, f"resuming {output.name}: {finished(parts.finished)} already"]
            lines = [f"cannot resume {output.name}: {changed}; starting anew"]
        elif head is not None and count:
            dropped = counted(count, "finished shot")
            lines = [f"dropping {dropped} of an earlier run (--resume would have used them)"]
        elif resume:
            unread = (folder / "state.json").exists()
            why = "the notes of the earlier run are damaged" if unread else "nothing is finished yet"
            lines = [f"nothing to resume for {output.name} ({why}): starting anew"]
        parts = cls(folder, fingerprint)
        try:
            with undisturbed():
                if folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir(parents=True)
        except BaseException:
            parts.discard()
            raise
        return parts, lines

    def path(self, kind: str, index: int, suffix: str = "") -> Path:
        """Where the file of one kind for one shot belongs."""
        return part_path(self.folder, kind, index, suffix)

    @property
    def finished(self) -> int:
        """Number of finished shots."""
        return len(self.shots)

    def shot(self, index: int) -> dict[str, Any] | None:
        """The record of a finished shot, None where it is not finished."""
        shot = self.shots.get(index)
        return None if shot is None else shot["record"]

    def has(self, index: int, kinds: Sequence[str]) -> bool:
        """Whether a shot is finished, with files of all these kinds."""
        shot = self.shots.get(index)
        return shot is not None and all(self.path(kind, index).name in shot["files"] for kind in kinds)

    def finish(self, index: int, record: dict[str, Any], files: Sequence[Path] = ()) -> None:
        """Note that a shot is finished.

        Args:
            index: its number.
            record: what is to be known of it.
            files: its files or folders, which must be complete and lie in the folder; the disk holds them afterwards.
        """
        for path in files:
            flush(path)
        flush_names(self.folder)
        self.shots[index] = {"record": plain(record), "files": {path.name: checksum_of(path) for path in files}}
        self._write()

    def noted(self, key: str) -> Any:
        """What this run or an earlier one noted under ``key``, None where nothing was."""
        return self.notes.get(key)

    def note(self, key: str, value: Any) -> None:
        """Note something that a resumed run must know, such as the tile that was chosen."""
        self.notes[key] = plain(value)
        self._write()

    def drop_damaged(self) -> int:
        """Take shots whose files are not what they were off the list; returns how many there were."""
        damaged = [index for index, shot in self.shots.items() if not self._verifies(shot["files"])]
        for index in damaged:
            del self.shots[index]
        return len(damaged)

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _verifies(self, files: dict[str, str]) -> bool:
        try:
            return all(checksum_of(self.folder / name) == checksum for name, checksum in files.items())
        except OSError:
            return False

    def _write(self) -> None:
        head = sealed({"format": STATE_FORMAT, "fingerprint": self.fingerprint, "notes": self.notes})
        shots = {str(index): sealed(shot) for index, shot in sorted(self.shots.items())}
        write_whole(self.folder / "state.json", json.dumps({**head, "shots": shots}, indent=1).encode())


def clear_parts(output: Path) -> None:
    """Take away what a run has left that was killed when its result was whole, unless somebody is at work on it.

    Parts that are younger than the result stay: a run that was to replace it made them, and can go on.
    """
    folder = parts_folder(output)
    if not (folder.exists() or lock_path(output).exists()):
        return
    with suppress(MetadeblurError, OSError), writing(output):
        state = folder / "state.json"
        if not state.exists() or state.stat().st_mtime_ns <= output.stat().st_mtime_ns:
            shutil.rmtree(folder, ignore_errors=True)


def _read_state(folder: Path) -> tuple[dict[str, Any] | None, dict[int, dict[str, Any]], int]:
    """What an earlier run left behind: the head (None where there is none of any use), its shots, how many it had.

    Shots whose record is damaged are counted, but not among those that are given back.
    """
    try:
        state = json.loads((folder / "state.json").read_bytes().decode())
        shots = state.pop("shots")
        noted = {int(index): shot for index, shot in shots.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None, {}, 0
    if not is_whole(state) or state.get("format") != STATE_FORMAT:
        return None, {}, 0
    return state, {index: shot for index, shot in noted.items() if is_whole(shot)}, len(noted)
