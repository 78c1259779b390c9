"""The page itself: clips on the left, what became of them on the right, and what happens when it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, get_args

import gradio as gr
from PIL import Image, ImageOps

from metadeblur.app import html
from metadeblur.app.service import VIDEO_SUFFIXES, Service, UploadedClip, Visit
from metadeblur.app.tasks import EXAMPLES, Compared, Done, expected_seconds
from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.demo import PHOTOGRAPH
from metadeblur.pipeline.time_left import range_in_words
from metadeblur.report.html import sentence, text
from metadeblur.types import Effort

TICK_SECONDS = 0.7  # between two looks at what is under way

_EFFORTS = [
    ("Quick: learns nothing from your clip", "quick"),
    ("Balanced: learns from your clip, and is checked", "balanced"),
    ("Best: learns longer, from more of it", "best"),
]
_ABOUT_MODELS = (
    "The network that restores. lite comes with this program; others are here once their weights are imported."
)

View = dict[str, dict[str, Any]]
"""What each component shows, by its name: arguments of it."""
Changes = dict[Any, Any]
"""Components and their new values; those that are not in it stay as they are."""
_BLANK: View = {
    "clips": {"choices": [], "value": None, "visible": False},
    "stage": {
        "value": html.nothing("Here you see two seconds of your clip, before and after, as soon as there is one.")
    },
    "work": {"value": ""},
    "compare": {"value": None, "visible": False},
    "pictures": {"value": None, "visible": False},
    "video": {"value": None, "visible": False},
    "download": {"value": None, "visible": False},
    "links": {"value": ""},
    "expectation": {"value": ""},
    "start": {"interactive": False, "value": "Restore"},
    "start_all": {"visible": False},
    "cancel": {"visible": False},
    "delete": {"visible": False},
    "delete_all": {"visible": False},
    "timer": {"active": False},
}


def make_page(service: Service) -> gr.Blocks:
    """The page; its calls are answered at once, long work is looked at again and again."""
    page = gr.Blocks(title="metadeblur", analytics_enabled=False)
    with page:
        controls = _Controls(service)
        _connect(page, service, controls)
    return page


class _Controls:
    """What there is on the page.

    Attributes:
        shown: by their names the components that a :data:`View` describes.
    """

    def __init__(self, service: Service) -> None:
        # Whose clips are seen on an open page, which of them, and what each component shows; a browser's own visit.
        self.token, self.chosen, self.last = gr.State(""), gr.State(""), gr.State({})
        self.own = gr.BrowserState("", storage_key="metadeblur")
        models = service.models()
        gr.HTML(html.INTRODUCTION)
        with gr.Row(elem_id="columns"):
            with gr.Column(min_width=320, elem_id="yours"):
                types = ["video", "image", *VIDEO_SUFFIXES]
                most = f"Your clips, {service.limit // 1_000_000} MB each at most"
                self.files = gr.File(file_count="multiple", file_types=types, label=most, height=170, elem_id="files")
                self.directory = gr.UploadButton("Choose a folder of frames", file_count="directory", size="sm")
                self.examples = gr.Dataset(
                    label="No video at hand? Try an example",
                    components=["image"],
                    samples=[[path] for path in _thumbnails(service.shown)],
                    type="index",
                    elem_id="examples",
                )
                self.clips = gr.Radio([], label="Clips", visible=False, elem_id="clips")
                self.effort = gr.Radio(_EFFORTS, value="balanced", label="Effort", elem_id="effort")
                self.model = gr.Dropdown(models, value=models[0], label="Model", info=_ABOUT_MODELS, elem_id="model")
                self.expectation = gr.HTML("", elem_id="expectation", js_on_load=html.LIVE_SCRIPT)
                with gr.Row():
                    self.start = gr.Button("Restore", variant="primary", interactive=False, elem_id="start")
                    self.start_all = gr.Button("Restore all", variant="secondary", visible=False, elem_id="start_all")
                with gr.Row():
                    self.delete = gr.Button("Delete this clip", variant="stop", size="sm", visible=False)
                    self.delete_all = gr.Button("Delete everything", variant="stop", size="sm", visible=False)
            with gr.Column(scale=2, min_width=320, elem_id="theirs"):
                self.stage = gr.HTML(_BLANK["stage"]["value"], elem_id="stage", js_on_load=html.LIVE_SCRIPT)
                self.work = gr.HTML("", elem_id="work")
                self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
                self.compare = gr.HTML(
                    None, html_template=html.COMPARE, js_on_load=html.COMPARE_SCRIPT, visible=False, elem_id="compare"
                )
                self.pictures = gr.ImageSlider(
                    label="Before and after", visible=False, interactive=False, type="filepath"
                )
                self.download = gr.DownloadButton("Download", variant="primary", visible=False, elem_id="download")
                self.links = gr.HTML("", elem_id="links")
                self.video = gr.Video(
                    label="The restored clip", visible=False, interactive=False, buttons=[], elem_id="video"
                )
        self.timer = gr.Timer(TICK_SECONDS, active=False)
        self.shown: dict[str, Any] = {name: getattr(self, name) for name in _BLANK}


def _thumbnails(shown: Path) -> list[str]:
    """A picture of each example."""
    photograph = Image.open(str(files("metadeblur") / "assets" / PHOTOGRAPH))
    paths = []
    for number, settings in enumerate(EXAMPLES.values()):
        seen = (settings.width, settings.height)
        picture = ImageOps.pad(photograph.crop(_middle(photograph.size, seen)), (240, 180))
        paths.append(str(shown / f"example{number}.jpg"))
        picture.save(paths[-1], quality=85)
    return paths


def _middle(whole: tuple[int, int], part: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part in the middle."""
    left, top = ((all_of_it - some) // 2 for all_of_it, some in zip(whole, part, strict=True))
    return left, top, left + part[0], top + part[1]


def _connect(page: gr.Blocks, service: Service, controls: _Controls) -> None:
    """Have something happen when the page is used."""
    shown = controls.shown
    session = [controls.token, controls.chosen, controls.last, controls.model, controls.effort]
    outputs = [controls.token, controls.chosen, controls.last, *shown.values()]
    more = [controls.own, controls.files, *outputs]
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def changes(visit: Visit | None, key: str, last: View, effort: str) -> Changes:
        """What is to be shown now and was not before."""
        clip = _chosen(visit, key)
        now = dict(_BLANK)
        if visit is not None and clip is not None:
            now |= _view(service, visit, clip, effort)
        elif visit is None and last.get("clips", _BLANK["clips"])["visible"]:
            now["stage"] = {"value": html.nothing("The clips of this visit are deleted.")}
        return {
            controls.token: visit.token if visit is not None else "",
            controls.chosen: clip.key if clip is not None else "",
            controls.last: now,
            **{shown[name]: gr.update(**how) for name, how in now.items() if last.get(name) != how},
        }

    def acting(act: Callable[[Visit, UploadedClip, str, Effort], object]) -> Callable[..., Changes]:
        """A call that does something with the chosen clip, if there is one still."""

        def call(token: str, key: str, last: View, model: str, effort: Effort) -> Changes:
            visit = service.get(token)
            clip = _chosen(visit, key)
            if visit is not None and clip is not None:
                with _said():
                    act(visit, clip, model, effort)
            return changes(visit, key, last, effort)

        return call

    def arrive(own: str, last: View, effort: Effort, request: gr.Request) -> Changes:
        visit = service.get(request.query_params.get("job")) or service.get(own)
        if visit is not None:
            visit.pages.add(request.session_hash or "")
        return changes(visit, "", last, effort)

    def bringing(act: Callable[[Visit, Any, str], str]) -> Callable[..., Changes]:
        """A call that takes something as a clip; in a visit of one's own, not one whose address was passed on."""

        def call(what: Any, own: str, last: View, model: str, effort: str, request: gr.Request) -> Changes:
            with _said():
                visit = service.get(own) or service.open()
                visit.pages.add(request.session_hash or "")
                key = act(visit, what, model)
            return {controls.own: visit.token, controls.files: None, **changes(visit, key, last, effort)}

        return call

    def bring(visit: Visit, files: list[dict[str, Any]], model: str) -> str:
        named = [(Path(file["path"]), file["orig_name"] or Path(file["path"]).name) for file in files or []]
        return service.bring(visit, named, model)[0].key

    def example(visit: Visit, number: int, model: str) -> str:
        return service.example(visit, list(EXAMPLES)[number], model).key

    def choose(key: str, token: str, last: View, effort: Effort) -> Changes:
        return changes(service.get(token), key, last, effort)

    def look_again(visit: Visit, clip: UploadedClip, model: str, _: Effort) -> None:
        if clip.work is None:
            service.look(visit, clip, model)

    def start_all(visit: Visit, _: UploadedClip, model: str, effort: Effort) -> None:
        for clip in _unrestored(visit):
            service.begin(visit, clip, model, effort)

    def delete_all(token: str, last: View, effort: Effort) -> Changes:
        visit = service.get(token)
        if visit is not None:
            service.end(visit)
        return {controls.own: "", **changes(None, "", last, effort)}

    def left(request: gr.Request) -> None:
        service.left(request.session_hash or "")

    page.load(None, None, None, js=html.PAGE_SCRIPT)
    arrived = page.load(arrive, [controls.own, controls.last, controls.effort], outputs, **quick)
    arrived.then(None, [controls.own], None, js=html.ADDRESS_SCRIPT)
    page.unload(left)
    begun = [
        control.upload(bringing(bring), [control, controls.own, *session[2:]], more, preprocess=False, **quick)
        for control in (controls.files, controls.directory)
    ]
    begun.append(
        controls.examples.click(bringing(example), [controls.examples, controls.own, *session[2:]], more, **quick)
    )
    for event in begun:
        event.then(None, [controls.own], None, js=html.NEW_ADDRESS_SCRIPT)
    chosen = [shown["clips"], controls.token, controls.last, controls.effort]
    shown["clips"].input(choose, chosen, outputs, **quick)
    for happens, act in (
        (shown["timer"].tick, lambda *_: None),
        (controls.effort.change, lambda *_: None),
        (controls.model.change, look_again),
        (shown["start"].click, service.begin),
        (shown["start_all"].click, start_all),
        (shown["cancel"].click, lambda visit, clip, *_: service.cancel(visit, clip)),
        (shown["delete"].click, lambda visit, clip, *_: service.delete(visit, clip)),
    ):
        happens(acting(act), session, outputs, **quick)
    everything = [controls.token, controls.last, controls.effort]
    ended = shown["delete_all"].click(delete_all, everything, [controls.own, *outputs], **quick)
    ended.then(None, [controls.own], None, js=html.NEW_ADDRESS_SCRIPT)


@contextmanager
def _said() -> Iterator[None]:
    """Say in the corner of the page what went wrong."""
    try:
        yield
    except MetadeblurError as error:
        raise gr.Error(text(sentence(str(error))), title="", print_exception=False) from error


def _chosen(visit: Visit | None, key: object) -> UploadedClip | None:
    """The clip that is looked at: the one that was chosen last, otherwise the latest."""
    if visit is None or not visit.clips:
        return None
    return visit.clips.get(str(key)) or list(visit.clips.values())[-1]


def _unrestored(visit: Visit) -> list[UploadedClip]:
    return [clip for clip in visit.clips.values() if clip.seen is not None and clip.work is None]


def _view(service: Service, visit: Visit, clip: UploadedClip, effort: str) -> View:
    """What there is to see of a visit when one of its clips is looked at."""
    clips = list(visit.clips.values())
    busy = clip.work is not None and not clip.work.over
    under_way = any(other.task is not None and not other.task.over for other in clips)
    view: View = {
        "clips": {
            "choices": [(f"{other.name}: {_state(service, other)}", other.key) for other in clips],
            "value": clip.key,
            "visible": True,
        },
        "timer": {"active": under_way},
        "start": {
            "interactive": clip.seen is not None and not busy,
            "value": "Restore again" if clip.done is not None else "Restore",
        },
        "start_all": {"visible": len(_unrestored(visit)) > 1},
        "cancel": {"visible": busy},
        "delete": {"visible": True},
        "delete_all": {"visible": len(clips) > 1},
    }
    if clip.done is not None:
        return view | _result(clip, clip.done)
    if clip.error:
        view["stage"] = {"value": html.wrong(clip.error)}
    elif clip.task is not None and not clip.task.over:
        words = html.headline(clip.task, service.line.before(clip.task)) if busy else "Making a preview"
        since = time.monotonic() - clip.task.began if clip.task.began else 0.0
        more = html.info_in_words(clip.seen.info) if clip.seen is not None else clip.name
        view["stage"] = {"value": html.heading(words, more)}
        view["work"] = {"value": html.progress(clip.task, _expectation(clip, effort) if busy else "", since)}
    if clip.seen is not None:
        if "stage" not in view:
            view["stage"] = {"value": html.preview(clip.seen)}
            view["expectation"] = {"value": html.quiet(f"Expected time: {_expectation(clip, effort)}")}
        view |= _compared(clip.seen.preview)
    return view


def _result(clip: UploadedClip, done: Done) -> View:
    moving = done.compared.moving
    return {
        "stage": {"value": html.result(done)},
        "links": {"value": html.links(done, clip)},
        "download": {"value": done.file, "visible": True},
        "video": {"value": done.compared.after if moving else None, "visible": moving},
        **_compared(done.compared),
    }


def _compared(pair: Compared) -> View:
    if not pair.moving:
        return {"pictures": {"value": (pair.before, pair.after), "visible": True}}
    sides = {side: html.address(path) for side, path in (("before", pair.before), ("after", pair.after))}
    value = {**sides, "frames": pair.frames, "worst": pair.worst, "fps": pair.fps}
    return {"compare": {"value": value, "visible": True}}


def _expectation(clip: UploadedClip, effort: str) -> str:
    """How long the restoration of a clip that was looked at takes, in words."""
    if clip.seen is None:
        return ""
    wanted = clip.effort or effort
    known = cast(Effort, wanted) if wanted in get_args(Effort) else "balanced"
    return range_in_words(*expected_seconds(clip.seen, known))


def _state(service: Service, clip: UploadedClip) -> str:
    """Where a clip stands, in a few words."""
    if clip.error:
        return "failed"
    if clip.work is not None and clip.work.state == "waiting":
        before = service.line.before(clip.work)
        return f"in line, {before} before it" if before else "in line"
    if clip.work is not None:
        return "done" if clip.work.over else "being restored"
    return "preview ready" if clip.seen is not None else "making a preview"
