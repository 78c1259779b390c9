"""What the page can do, without the page: take a clip, say how long it will take, restore it, give the result."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from metadeblur.app import tasks
from metadeblur.app.bounds import Bounds
from metadeblur.app.queue import QueuedTask, TaskProcesses, TaskQueue
from metadeblur.app.uploads import UploadedClip, Visit, Visits, take
from metadeblur.errors import MetadeblurError
from metadeblur.models.weights import installed_path
from metadeblur.pipeline.catalogue import names as model_names
from metadeblur.pipeline.time_left import range_in_words

Result = TypeVar("Result")

MOST_WAITING = 50  # restorations, one a visitor
_AT_ONCE = 2  # processes that check clips, and as many that read frames to be looked at
_PATIENCE = 60.0  # seconds that a visitor waits for one of them


class Service:
    """Everything behind the page; calls may come from many threads.

    Args:
        limit: bytes that one clip may have.
        jobs: restorations that run at the same time.
        bounds: what else a clip may have.
    """

    def __init__(self, limit: int, jobs: int = 1, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.visits = Visits(limit)
        self.workers = TaskProcesses(jobs, self.bounds.pixels)
        self.line = TaskQueue(self.workers, jobs)
        self._speeds: dict[str, float] = {}
        self._measuring, self._filming = threading.Lock(), threading.Lock()  # done once, whoever comes first
        self._looking, self._checking = threading.Semaphore(_AT_ONCE), threading.Semaphore(_AT_ONCE)

    def models(self) -> list[str]:
        """Names of the models whose weights are here."""
        return [name for name in model_names() if installed_path(name).is_file()]

    def clip_of(self, visit: Visit) -> UploadedClip:
        """Take what has arrived as the visitor's clip and look whether it can be restored.

        Raises:
            MetadeblurError: it cannot; everything of it is deleted.
        """
        if visit.busy:
            raise MetadeblurError("a restoration is under way; cancel it before you bring another clip")
        begun = visit.clips
        try:
            with visit.lock:
                clip = take(visit)
            clip.facts = _named(clip, lambda: self._checked(visit, clip))
        except MetadeblurError:
            if visit.clips == begun:
                visit.empty()
            raise
        if visit.clips != begun:
            raise MetadeblurError("another clip has been begun meanwhile")
        visit.clip = clip
        return clip

    def _checked(self, visit: Visit, clip: UploadedClip) -> tasks.Facts:
        with _turn(self._checking):
            facts: tasks.Facts = self.workers.call(visit.folder, tasks.check, clip.path, self.bounds)
        return facts

    def example(self, visit: Visit, name: str) -> UploadedClip:
        """Give the visitor one of the examples as a clip; it is filmed when it is asked for the first time.

        Raises:
            MetadeblurError: a restoration is under way.
        """
        if visit.busy:
            raise MetadeblurError("a restoration is under way; cancel it before you choose another clip")
        kept = self.visits.folder / f"{tasks.EXAMPLES[name].settings.width}.mp4"
        with self._filming:
            if not kept.is_file():
                self.workers.call(self.visits.folder, tasks.make_example, name, Path(kept.name))
        visit.empty()
        visit.fresh(visit.uploads)
        shutil.copyfile(kept, visit.uploads / "part000000")
        visit.arrived[0] = "shaky.mp4"
        return self.clip_of(visit)

    def expected(self, clip: UploadedClip, model: str, effort: tasks.PageEffort, seconds: float) -> str:
        """How long a restoration of a clip will take, in words.

        Raises:
            MetadeblurError: an unknown model or effort.
        """
        assert clip.facts is not None
        low, high = tasks.expected_seconds(clip.facts, self.speed(model), tasks.run_settings(effort, seconds))
        return range_in_words(low, high)

    def speed(self, model: str) -> float:
        """Seconds that a model takes for a pixel here; measured the first time it is asked for."""
        self._refuse_unknown(model)
        with self._measuring:
            if model not in self._speeds:
                self._speeds[model] = self.workers.call(self.visits.folder, tasks.speed, model)
        return self._speeds[model]

    def begin(self, visit: Visit, model: str, effort: tasks.PageEffort, seconds: float) -> QueuedTask:
        """Have the visitor's clip restored when its turn comes.

        Raises:
            MetadeblurError: there is no clip, a restoration is under way already, or too many wait.
        """
        self._refuse_unknown(model)
        settings = tasks.run_settings(effort, seconds)
        with visit.lock:
            if self.visits.get(visit.token) is None:
                raise MetadeblurError("this visit has ended; load the page again")
            if visit.clip is None:
                raise MetadeblurError("there is no clip yet; choose a video, the frames of one, or an example")
            if visit.busy:
                raise MetadeblurError("a restoration is under way already")
            if len(self.line) >= MOST_WAITING:
                raise MetadeblurError(f"{MOST_WAITING} restorations are waiting already; come back later")
            visit.fresh(visit.run)
            clip, into = visit.clip, Path(visit.run.name)
            visit.job = self.line.add(visit.folder, tasks.restore, clip.path, clip.names, into, model, settings)
            return visit.job

    def cancel(self, visit: Visit) -> None:
        """End the visitor's restoration, if there is one; nothing of it is left when this returns."""
        if visit.job is not None:
            self.line.cancel(visit.job)
            visit.job = None
        shutil.rmtree(visit.run, ignore_errors=True)

    def end(self, visit: Visit) -> None:
        """The visitor leaves, or wants everything deleted."""
        self.cancel(visit)
        self.visits.end(visit)

    def sweep(self) -> None:
        """Delete what belongs to visitors who have left without a word."""
        for visit in self.visits.gone(time.monotonic()):
            self.end(visit)

    def close(self) -> None:
        """End all restorations and delete everything."""
        self.line.close()
        self.visits.close()

    def finished(self, visit: Visit) -> tasks.Done | None:
        """The visitor's result, None as long as there is none."""
        job = visit.job
        result: tasks.Done | None = job.result if job is not None and job.state == "done" else None
        return result

    def picture(self, visit: Visit, side: str, number: int) -> bytes | None:
        """A frame before or after, as JPEG; None where there is none.

        Args:
            visit: whose.
            side: "before" or "after".
            number: of the frame, from 0 on.
        """
        done = self.finished(visit)
        if done is None or side not in ("before", "after") or not 0 <= number < done.frames:
            return None
        source, times = done.before if side == "before" else done.after
        with _turn(self._looking):
            jpeg: bytes = self.workers.call(visit.folder, tasks.picture, source, times, number)
        return jpeg

    def _refuse_unknown(self, model: str) -> None:
        """Refuse a model that is not here: its name comes from outside."""
        if model not in self.models():
            raise MetadeblurError(f"model {model!r} is not here; choose one of {', '.join(self.models())}")


@contextmanager
def _turn(places: threading.Semaphore) -> Iterator[None]:
    """Wait for a place.

    Raises:
        MetadeblurError: too many others wait.
    """
    if not places.acquire(timeout=_PATIENCE):
        raise MetadeblurError("too many others are waiting; try again later")
    try:
        yield
    finally:
        places.release()


def reason(clip: UploadedClip, line: str) -> str:
    """An error's line with the visitor's own name of the clip in place of ours."""
    return line.replace(str(clip.path), clip.name)


def _named(clip: UploadedClip, call: Callable[[], Result]) -> Result:
    """What a call returns; an error of it speaks of the clip by the visitor's own name."""
    try:
        return call()
    except MetadeblurError as error:
        raise MetadeblurError(reason(clip, str(error))) from error
