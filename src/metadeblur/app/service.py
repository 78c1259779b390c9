"""What visitors bring and get, and what they can have done: each clip in private folders, until it is deleted.

Whoever knows a visit's token sees all of the visit, so that a page that is loaded again goes on where it was. Files
that a browser may load lie in a folder of their own inside Gradio's, under a name that nobody can guess; all else is
out of its reach.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import get_args

from metadeblur.adaptation.settings import preset
from metadeblur.app import tasks
from metadeblur.app.bounds import Bounds
from metadeblur.app.queue import QueuedTask, TaskProcesses, TaskQueue
from metadeblur.errors import MetadeblurError
from metadeblur.models.weights import installed_path
from metadeblur.pipeline.catalogue import names as model_names
from metadeblur.pipeline.run import RunSettings
from metadeblur.system.names import counted, natural
from metadeblur.system.scratch import sweep, using
from metadeblur.types import Effort
from metadeblur.video.encoding import CONTAINERS
from metadeblur.video.stills import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (*CONTAINERS, ".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".wmv")
"""Suffixes that a file keeps; FFmpeg looks into the file to see what it is."""
AWAY_SECONDS = 150.0  # a page says at least once a minute that it is there; after so long it is not
LEFT_SECONDS = 20.0  # after a browser has closed its connection: it may be loading the page again
UPLOAD_SECONDS = 600.0  # an upload that nobody has taken for so long is of no use
LOOK_SECONDS = 120.0  # that a look at a clip may take
MOST_FILES = 5000  # of one clip
MOST_CLIPS = 20  # of one visitor
MOST_VISITS = 1000
MOST_WAITING = 50  # restorations
_LONGEST_NAME = 80  # characters
_UPLOAD = re.compile("[0-9a-f]{64}")  # what Gradio calls the folder of an upload


def clean_name(name: str) -> str:
    r"""What a file from outside is called where its name is shown or offered: no folders, nothing that means something.

    >>> clean_name("../../x.mp4"), clean_name("C:\\films\\my <clip>.MOV"), clean_name("../.."), clean_name("")
    ('x.mp4', 'my _clip_.MOV', 'clip', 'clip')
    """
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name).rstrip("\\/. "))[-1]
    kept = "".join(c if c.isalnum() or c in " ._-()+,&" else "_" for c in last).strip(" .").lstrip("-") or "clip"
    suffix = PurePosixPath(kept).suffix if len(PurePosixPath(kept).suffix) <= 8 else ""
    return f"{kept.removesuffix(suffix)[:_LONGEST_NAME]}{suffix}"


@dataclass(eq=False)
class UploadedClip:
    """What a visitor has brought to be restored."""

    key: str
    name: str  # what it is called when spoken of
    folder: Path  # where its processes work; nobody loads from there
    shown: Path  # where browsers load from
    source: Path  # relative to the folder
    names: tuple[str, ...] = ()  # of the frames of a folder
    example: str = ""  # that it is
    looking: QueuedTask | None = None
    work: QueuedTask | None = None  # its restoration, once it is asked for
    effort: Effort | None = None  # of it
    flags: str = ""  # of the command line that does the same

    @property
    def seen(self) -> tasks.Look | None:
        """What was found out about it, once it was looked at."""
        return self.looking.result if self.looking is not None else None

    @property
    def done(self) -> tasks.Done | None:
        """Its result, once there is one."""
        return self.work.result if self.work is not None else None

    @property
    def task(self) -> QueuedTask | None:
        """What is done or was done with it last."""
        return self.work or self.looking

    @property
    def error(self) -> str:
        """What went wrong, with the visitor's own name of it."""
        line = self.task.error if self.task is not None else ""
        return line.replace(str(self.source), self.name)


@dataclass(eq=False)
class Visit:
    """One visitor, whose page is open or may be again."""

    token: str  # nobody else knows it; it opens everything of this visitor's
    heard: float = field(default_factory=time.monotonic)  # when there was a sign of life
    clips: dict[str, UploadedClip] = field(default_factory=dict)
    pages: set[str] = field(default_factory=set)  # of this visitor's that are open
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def here(self) -> bool:
        """Whether a page of this visitor's is open."""
        return time.monotonic() - self.heard < AWAY_SECONDS


class Service:
    """Everything behind the page; calls may come from many threads.

    Args:
        limit: bytes that one clip may have.
        jobs: restorations that run at the same time.
        bounds: what else a clip may have.
        keep: seconds for which a visit is kept after the last sign of life.
    """

    def __init__(self, limit: int, jobs: int = 1, bounds: Bounds | None = None, keep: float = 86_400.0) -> None:
        self.limit, self.keep, self.bounds = limit, keep, bounds or Bounds()
        place = Path(tempfile.gettempdir())
        sweep(place)
        self._held = contextlib.ExitStack()
        self.folder = self._held.enter_context(using(place / f"metadeblur-app-{secrets.token_hex(4)}"))
        self.folder.mkdir(mode=0o700)
        self._held.callback(shutil.rmtree, self.folder, ignore_errors=True)
        # As Gradio reads it; who asks for the page's own folder in there must know its name.
        self.uploads = Path(os.environ.setdefault("GRADIO_TEMP_DIR", str(self.folder / "gradio"))).resolve()
        self.shown = self.uploads / f"metadeblur-{secrets.token_urlsafe(32)}"
        self.uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.shown.mkdir(mode=0o700)
        self._held.callback(shutil.rmtree, self.shown, ignore_errors=True)
        self.workers = TaskProcesses(jobs, self.bounds.pixels)
        self.looks, self.line = TaskQueue(self.workers), TaskQueue(self.workers, jobs)
        self.visits: dict[str, Visit] = {}
        self._taken: dict[Path, Path] = {}  # where uploads have gone: the same file may be brought at the same moment

    def models(self) -> list[str]:
        """Names of the models whose weights are here."""
        return [name for name in model_names() if installed_path(name).is_file()]

    # --- visitors ----------------------------------------------------------------------------------------------------

    def open(self) -> Visit:
        """A new visitor; one who has nothing left makes room where there are very many.

        Raises:
            MetadeblurError: there are very many.
        """
        while len(self.visits) >= MOST_VISITS:
            idle = [visit for visit in list(self.visits.values()) if not visit.clips]
            if not idle:
                raise MetadeblurError("too many people use this page at the moment; come back later")
            self.end(min(idle, key=lambda visit: visit.heard))
        visit = Visit(secrets.token_urlsafe(32))
        self.visits[visit.token] = visit
        return visit

    def get(self, token: object) -> Visit | None:
        """The visitor who knows this token, who has just been heard of; None where there is none."""
        visit = self.visits.get(token) if isinstance(token, str) else None
        if visit is not None:
            visit.heard = time.monotonic()
        return visit

    def left(self, page: str) -> None:
        """A page has been closed; where its visitor has no other and opens none soon, nobody waits any more."""
        for visit in list(self.visits.values()):
            if page in visit.pages:
                visit.pages.discard(page)
                if not visit.pages:
                    visit.heard = min(visit.heard, time.monotonic() - AWAY_SECONDS + LEFT_SECONDS)

    def end(self, visit: Visit) -> None:
        """Forget a visitor and delete everything of theirs."""
        self.visits.pop(visit.token, None)
        for clip in list(visit.clips.values()):
            self.delete(visit, clip)

    def sweep(self) -> None:
        """Delete what has expired and what was uploaded for nothing; begin what is wanted again."""
        for visit in list(self.visits.values()):
            if time.monotonic() - visit.heard > (self.keep if visit.clips else AWAY_SECONDS):
                self.end(visit)
        for path in self.uploads.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith("metadeblur-") and time.time() - path.stat().st_mtime > UPLOAD_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._taken = {path: target for path, target in self._taken.items() if target.exists()}
        for queue in (self.looks, self.line):
            queue.turn()

    def close(self) -> None:
        """End all work and delete everything."""
        for queue in (self.looks, self.line):
            queue.close()
        self._held.close()

    # --- clips -------------------------------------------------------------------------------------------------------

    def bring(self, visit: Visit, files: Sequence[tuple[Path, str]], model: str) -> list[UploadedClip]:
        """Take uploaded files as clips: every video is one, all pictures together are the frames of one.

        Args:
            visit: whose.
            files: paths in Gradio's folder of uploads, and what each is called outside.
            model: name of the network that makes the preview.

        Raises:
            MetadeblurError: an unknown model, no files, or too much; nothing of it is kept.
        """
        named = [(path, clean_name(name)) for path, name in files if not _hidden(name) or len(files) == 1]
        self._refuse_unknown(model)
        before = set(visit.clips)
        with _in_words(), contextlib.ExitStack() as rest:
            for path, _ in files:
                if path.parent.parent != self.uploads or not _UPLOAD.fullmatch(path.parent.name):
                    raise MetadeblurError("choose files of your own")
                rest.callback(shutil.rmtree, path.parent, ignore_errors=True)
            pictures = [entry for entry in named if Path(entry[1]).suffix.lower() in IMAGE_SUFFIXES]
            clips = [[entry] for entry in named if entry not in pictures] + ([pictures] if pictures else [])
            if not clips:
                raise MetadeblurError("no file has arrived; choose a video, or the frames of a clip")
            self._check_room(visit, clips)
            try:
                taken = [self._take(visit, clip) for clip in clips]
            except OSError:
                for key in set(visit.clips) - before:
                    self.delete(visit, visit.clips[key])
                raise
        for clip in taken:
            self.look(visit, clip, model)
        return taken

    def _check_room(self, visit: Visit, clips: Sequence[Sequence[tuple[Path, str]]]) -> None:
        """Refuse too much.

        Raises:
            MetadeblurError: it is.
        """
        if len(visit.clips) + len(clips) > MOST_CLIPS:
            raise MetadeblurError(f"more than {MOST_CLIPS} clips; delete some first, or use the command line")
        for files in clips:
            if len(files) > MOST_FILES:
                raise MetadeblurError(
                    f"more than {MOST_FILES} frames; restore a part of the clip, or use the command line"
                )
            if sum(path.stat().st_size for path, _ in files if path.exists()) > self.limit:
                raise MetadeblurError(
                    f"{files[0][1]}: larger than the {self.limit / 1e6:,.0f} MB that this page takes; cut the clip, "
                    "or use the command line"
                )

    def _take(self, visit: Visit, files: Sequence[tuple[Path, str]]) -> UploadedClip:
        if len(files) == 1:
            ((path, name),) = files
            suffix = Path(name).suffix
            kept = name if suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES) else name.removesuffix(suffix)
            clip = self._new(visit, name, Path("in", kept))
            self._move(path, clip.folder / clip.source)
            return clip
        clip = self._new(visit, counted(len(files), "frame"), Path("in", "frames"))
        (clip.folder / clip.source).mkdir()
        ordered = sorted(files, key=lambda entry: natural(entry[1].lower()))
        for number, (path, name) in enumerate(ordered):
            self._move(path, clip.folder / clip.source / f"frame{number:06d}{Path(name).suffix}")
        clip.names = different([name for _, name in ordered])
        return clip

    def _new(self, visit: Visit, name: str, source: Path) -> UploadedClip:
        key = secrets.token_urlsafe(8)
        place, shown = self.folder / f"clip-{key}", self.shown / secrets.token_urlsafe(32)
        (place / source.parent).mkdir(parents=True)
        shown.mkdir()
        clip = visit.clips[key] = UploadedClip(key, name, place, shown, source)
        return clip

    def _move(self, path: Path, target: Path) -> None:
        """Take an upload; where somebody else has brought the same and it was taken already, a copy of theirs."""
        try:
            shutil.move(path, target)
        except FileNotFoundError:
            shutil.copyfile(self._taken.get(path, path), target)
        self._taken[path] = target

    def example(self, visit: Visit, name: str, model: str) -> UploadedClip:
        """Give the visitor one of the examples as a clip.

        Raises:
            MetadeblurError: an unknown model, or too many clips.
        """
        self._refuse_unknown(model)
        with _in_words():
            self._check_room(visit, [[]])
            clip = self._new(visit, "shaky.mp4", Path("in", "shaky.mp4"))
        clip.example = name
        self.look(visit, clip, model)
        return clip

    def look(self, visit: Visit, clip: UploadedClip, model: str) -> None:
        """Have a clip looked at, and its preview made.

        Raises:
            MetadeblurError: an unknown model.
        """
        self._refuse_unknown(model)
        with visit.lock:
            if clip.looking is not None:
                self.looks.cancel(clip.looking)
            shown = Path(tempfile.mkdtemp(dir=clip.shown))
            values = (clip.source, clip.example, self.bounds, model, shown)
            task = QueuedTask(clip.folder, tasks.look, values, partial(_here, visit), LOOK_SECONDS)
            clip.looking = self.looks.add(task)

    def begin(self, visit: Visit, clip: UploadedClip, model: str, effort: Effort) -> None:
        """Have a clip restored when its turn comes.

        Raises:
            MetadeblurError: an unknown model or effort, no look at it yet, it is being restored, or too many wait.
        """
        self._refuse_unknown(model)
        if effort not in get_args(Effort):
            raise MetadeblurError(f"effort {effort!r}: choose one of {', '.join(get_args(Effort))}")
        with visit.lock:
            if clip.seen is None:
                raise MetadeblurError(f"{clip.name}: has not been looked at yet")
            if clip.work is not None and not clip.work.over:
                raise MetadeblurError(f"{clip.name}: is being restored already")
            if len(self.line) >= MOST_WAITING:
                raise MetadeblurError(f"{MOST_WAITING} restorations are waiting already; come back later")
            shown = Path(tempfile.mkdtemp(dir=clip.shown))
            clip.effort, clip.flags = effort, tasks.as_flags(model, effort)
            settings = RunSettings(adaptation=preset(effort))
            values = (clip.source, clip.names, Path(clip.name).stem, model, settings, shown)
            clip.work = self.line.add(QueuedTask(clip.folder, tasks.restore, values, partial(_here, visit)))

    def cancel(self, visit: Visit, clip: UploadedClip) -> None:
        """End a clip's restoration, if there is one; nothing of it is left when this returns."""
        with visit.lock:
            if clip.work is not None:
                self.line.cancel(clip.work)
                shutil.rmtree(clip.work.values[-1], ignore_errors=True)
                clip.work = clip.effort = None
            shutil.rmtree(clip.folder / "run", ignore_errors=True)

    def delete(self, visit: Visit, clip: UploadedClip) -> None:
        """Delete a clip and everything of it."""
        self.cancel(visit, clip)
        with visit.lock:
            if clip.looking is not None:
                self.looks.cancel(clip.looking)
            visit.clips.pop(clip.key, None)
            for folder in (clip.folder, clip.shown):
                shutil.rmtree(folder, ignore_errors=True)

    def _refuse_unknown(self, model: str) -> None:
        """Refuse a model that is not here: its name comes from outside."""
        if model not in self.models():
            raise MetadeblurError(f"model {model!r} is not here; choose one of {', '.join(self.models())}")


def _here(visit: Visit) -> bool:
    return visit.here


def _hidden(name: str) -> bool:
    """Whether it is what systems put into folders."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return last.startswith(".") or last == "Thumbs.db"


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Say what went wrong with a file of ours to a visitor, who knows nothing of it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
            words = "the computer that runs this page has no room for it at the moment; come back later"
            raise MetadeblurError(words) from error
        raise MetadeblurError("it could not be kept; bring it again") from error


def different(names: Sequence[str]) -> tuple[str, ...]:
    """Names with their number before them, where one comes again.

    >>> different(["a.png", "b.png"]), different(["a.png", "A.png"])
    (('a.png', 'b.png'), ('000000_a.png', '000001_A.png'))
    """
    if len({name.casefold() for name in names}) == len(names):  # as some systems compare them
        return tuple(names)
    return tuple(f"{number:06d}_{name}" for number, name in enumerate(names))
