"""What visitors bring and get: each in a private folder of their own, under names of ours, deleted when they leave."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from metadeblur.errors import MetadeblurError
from metadeblur.system.names import counted, natural
from metadeblur.system.scratch import sweep, using
from metadeblur.video.encoding import CONTAINERS
from metadeblur.video.stills import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from metadeblur.app.queue import QueuedTask
    from metadeblur.app.tasks import Facts

VIDEO_SUFFIXES = (*CONTAINERS, ".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".wmv")
"""Suffixes that a file keeps; FFmpeg looks into the file to see what it is."""
AWAY_SECONDS = 600.0  # a visitor of whom nothing is heard for so long has left
MOST_FILES = 5000  # of one clip
MOST_VISITS = 1000

_LONGEST_NAME = 80  # characters


def clean_name(name: str) -> str:
    r"""What a file from outside is called where its name is shown or offered: no folders, nothing that means something.

    >>> clean_name("../../x.mp4"), clean_name("C:\\films\\my <clip>.MOV"), clean_name("../.."), clean_name("")
    ('x.mp4', 'my _clip_.MOV', 'clip', 'clip')
    """
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name).rstrip("\\/. "))[-1]
    kept = "".join(c if c.isalnum() or c in " ._-()+,&" else "_" for c in last).strip(" .") or "clip"
    suffix = PurePosixPath(kept).suffix if len(PurePosixPath(kept).suffix) <= 8 else ""
    return f"{kept.removesuffix(suffix)[:_LONGEST_NAME]}{suffix}"


@dataclass
class UploadedClip:
    """What a visitor has brought to be restored."""

    path: Path  # relative to the visitor's folder
    name: str  # what it is called when spoken of
    names: tuple[str, ...] = ()  # of the frames of a folder
    facts: Facts | None = None  # once it is checked


@dataclass
class Visit:
    """One visitor with an open page."""

    token: str  # nobody else knows it; it opens everything of this visitor's
    folder: Path
    seen: float = field(default_factory=time.monotonic)  # last sign of life
    clips: int = 0  # begun; what still arrives of an earlier one is not of this one
    arrived: dict[int, str] = field(default_factory=dict)  # names of the files that have been uploaded, by number
    size: int = 0  # bytes of them
    clip: UploadedClip | None = None
    job: QueuedTask | None = None
    expectation: str = ""  # how long the restoration was said to take
    flags: str = ""  # of the command line that does the same
    headline: str = ""  # what the page says last
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def uploads(self) -> Path:
        """Where files arrive."""
        return self.folder / "upload"

    @property
    def run(self) -> Path:
        """Where a restoration writes."""
        return self.folder / "run"

    @property
    def busy(self) -> bool:
        """Whether a restoration waits or is under way."""
        return self.job is not None and not self.job.over

    def empty(self) -> None:
        """Remove all files."""
        self.clip, self.size = None, 0
        self.clips += 1
        self.arrived.clear()
        for folder in (self.uploads, self.run):
            shutil.rmtree(folder, ignore_errors=True)

    def fresh(self, folder: Path) -> Path:
        """Make one of the folders anew."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder


class Visits:
    """All visitors; their folders lie in one that only this user can enter.

    Args:
        limit: bytes that one clip may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        place = Path(tempfile.gettempdir())
        sweep(place)
        self._held = contextlib.ExitStack()
        self.folder = self._held.enter_context(using(place / f"metadeblur-app-{secrets.token_hex(4)}"))
        self.folder.mkdir(mode=0o700)
        self._held.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._visits: dict[str, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def open(self) -> Visit:
        """A new visitor; one who has brought nothing makes room where there are very many.

        Raises:
            MetadeblurError: there are very many who have, or there is no room on the disk.
        """
        while len(self._visits) >= MOST_VISITS:
            idle = [visit for visit in list(self._visits.values()) if not (visit.size or visit.clip or visit.busy)]
            if not idle:
                raise MetadeblurError("too many people use this page at the moment; come back later")
            self.end(min(idle, key=lambda visit: visit.seen))
        try:
            visit = Visit(secrets.token_urlsafe(32), Path(tempfile.mkdtemp(prefix="visit-", dir=self.folder)))
        except OSError as error:
            raise _in_words(error) from error
        self._visits[visit.token] = visit
        return visit

    def get(self, token: str) -> Visit | None:
        """The visitor who knows this token, who has just been heard of; None where there is none."""
        visit = self._visits.get(token)
        if visit is not None:
            visit.seen = time.monotonic()
        return visit

    def gone(self, now: float) -> list[Visit]:
        """Visitors of whom nothing has been heard for long."""
        return [visit for visit in list(self._visits.values()) if now - visit.seen > AWAY_SECONDS]

    def end(self, visit: Visit) -> None:
        """Forget a visitor and delete everything of theirs; their restoration must be over."""
        self._visits.pop(visit.token, None)
        visit.empty()  # what still arrives is not taken any more
        shutil.rmtree(visit.folder, ignore_errors=True)

    def close(self) -> None:
        """Delete everything."""
        for visit in list(self._visits.values()):
            self.end(visit)
        self._held.close()

    async def receive(self, visit: Visit, number: int, name: str, content: AsyncIterator[bytes]) -> None:
        """Take file ``number`` of a new clip; the first one replaces what was there.

        Args:
            visit: whose.
            number: 0 for the first file.
            name: what it is called outside; kept to be shown, never used as a path.
            content: the file.

        Raises:
            MetadeblurError: too large, too many, out of order, a restoration is under way, or the disk is full.
        """
        if visit.busy:
            raise MetadeblurError("a restoration is under way; cancel it before you bring another clip")
        if number == 0:
            visit.empty()
        if number >= MOST_FILES:
            raise MetadeblurError(f"more than {MOST_FILES} files; restore a part of the clip, or use the command line")
        if number != len(visit.arrived):
            raise MetadeblurError("the upload was interrupted; bring the clip again")
        clip = visit.clips
        try:
            if number == 0:
                visit.fresh(visit.uploads)
            with (visit.uploads / f"part{number:06d}").open("xb") as file:
                async for piece in content:
                    if visit.clips != clip:
                        raise MetadeblurError("another clip has been begun meanwhile")
                    visit.size += len(piece)
                    if visit.size > self.limit:
                        raise MetadeblurError(
                            f"{clean_name(name)}: larger than the {self.limit / 1e6:,.0f} MB that this page takes; "
                            "cut the clip, or use the command line"
                        )
                    file.write(piece)
        except BaseException as error:  # however it ends, nothing half of it stays
            if visit.clips == clip:
                visit.empty()
            if isinstance(error, OSError):
                raise _in_words(error) from error
            raise
        visit.arrived[number] = name


def _in_words(error: OSError) -> MetadeblurError:
    """What went wrong with a file of ours, for a visitor, who knows nothing of it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return MetadeblurError("the computer that runs this page has no room for it at the moment; come back later")
    if error.errno == errno.ENOENT:
        return MetadeblurError("this visit has ended meanwhile; load the page again")
    return MetadeblurError(f"it could not be kept ({error.strerror}); try again")


def take(visit: Visit) -> UploadedClip:
    """Make one clip of the files that have arrived: a video, a picture, or frames in the order of their names.

    Raises:
        MetadeblurError: none have arrived, or several that are not all pictures.
    """
    arrived, visit.arrived = visit.arrived, {}
    if not arrived:
        raise MetadeblurError("no file has arrived; choose a video, or the frames of a clip")
    names = {number: clean_name(name) for number, name in arrived.items()}
    suffixes = {number: _suffix(name) for number, name in names.items()}
    if len(names) == 1:
        path = visit.uploads / f"clip{suffixes[0]}"
        (visit.uploads / "part000000").rename(path)
        return UploadedClip(path.relative_to(visit.folder), names[0])
    strange = [names[number] for number, suffix in suffixes.items() if suffix not in IMAGE_SUFFIXES]
    if strange:
        raise MetadeblurError(
            f"{strange[0]}: several files must be the frames of one clip ({', '.join(IMAGE_SUFFIXES)}); "
            "bring videos one at a time"
        )
    folder = visit.uploads / "frames"
    folder.mkdir(mode=0o700)
    order = sorted(names, key=lambda number: natural(Path(names[number]).name.lower()))
    for place, number in enumerate(order):
        (visit.uploads / f"part{number:06d}").rename(folder / f"frame{place:06d}{suffixes[number]}")
    different = _different([names[number] for number in order])
    return UploadedClip(folder.relative_to(visit.folder), counted(len(order), "frame"), different)


def _different(names: list[str]) -> tuple[str, ...]:
    """Names with a number before those that come again.

    >>> _different(["a.png", "a.png"])
    ('a.png', '1_a.png')
    """
    taken = {name.casefold() for name in names}  # as some systems compare them
    seen: set[str] = set()
    different_names = []
    for number, name in enumerate(names):
        different = f"{number}_{name}" if name.casefold() in seen else name
        while different != name and different.casefold() in taken | seen:
            different = f"_{different}"
        different_names.append(different)
        seen.add(different.casefold())
    return tuple(different_names)


def _suffix(name: str) -> str:
    """The suffix of a name, if it is one of those known; none otherwise."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES) else ""
