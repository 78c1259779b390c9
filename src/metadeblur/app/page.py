"""The page itself: its controls, and what happens when they are used."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from metadeblur.app import html
from metadeblur.app.service import Service, reason
from metadeblur.app.tasks import EXAMPLES, PageEffort, as_flags
from metadeblur.app.uploads import Visit
from metadeblur.errors import MetadeblurError
from metadeblur.report.html import sentence

TICK_SECONDS = 0.7  # between two looks at a job

_EFFORTS = [
    ("Quick (learns nothing)", "quick"),
    ("Balanced", "balanced"),
    ("Best (learns longer)", "best"),
    ("Time limit for learning", "budget"),
]
_ENDED = "this visit has ended, and everything of it is deleted; load the page again"

Changes = dict[Any, Any]
"""Components and their new values; those that are not in it stay as they are."""


def make_page(service: Service) -> gr.Blocks:
    """The page; its calls are answered at once, long work is looked at again and again."""
    models = service.models()
    page = gr.Blocks(title="metadeblur", analytics_enabled=False)
    with page:
        token = gr.State("")
        gr.HTML(html.INTRODUCTION)
        drop = gr.HTML(
            "",
            html_template=html.DROP,
            js_on_load=html.DROP_SCRIPT,
            limit=service.visits.limit // 1_000_000,
            elem_id="drop",
        )
        gr.HTML(html.quiet("No video at hand? Try an example:"))
        with gr.Row(elem_id="examples"):
            examples = {name: gr.Button(example.title, size="md") for name, example in EXAMPLES.items()}
        clip = gr.HTML("", elem_id="clip")
        effort = gr.Radio(_EFFORTS, value="balanced", label="Effort", elem_id="effort")
        with gr.Row():
            model = gr.Dropdown(models, value=models[0], label="Model", elem_id="model")
            seconds = gr.Number(30, label="Seconds for learning", minimum=1, visible=False, elem_id="seconds")
        expectation = gr.HTML("", elem_id="expectation", js_on_load=html.LIVE_SCRIPT)
        with gr.Row():
            start = gr.Button("Restore", variant="primary", interactive=False, elem_id="start")
            cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
        stage = gr.HTML("", elem_id="stage", js_on_load=html.LIVE_SCRIPT)
        work = gr.HTML("", elem_id="work")
        result = gr.HTML("", elem_id="result")
        compare = gr.HTML("", js_on_load=html.COMPARE_SCRIPT, elem_id="compare")
        forget = gr.Button("Delete my clip and its result now", visible=False, size="md", elem_id="forget")
        timer = gr.Timer(TICK_SECONDS, active=False)

        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        chosen = [token, model, effort, seconds]
        everything = [clip, expectation, start, cancel, stage, work, result, compare, forget, timer]

        def blank() -> Changes:
            """Neither work nor result."""
            return {
                stage: "",
                work: "",
                result: "",
                compare: "",
                cancel: gr.Button(visible=False),
                timer: gr.Timer(active=False),
            }

        def arrive() -> tuple[str, str]:
            try:
                visit = service.visits.open()
            except MetadeblurError as error:
                raise gr.Error(sentence(str(error)), print_exception=False) from error
            return visit.token, visit.token

        def expected(visit: Visit, name: str, how: PageEffort, limit: float) -> Changes:
            if visit.clip is None:
                return {}
            try:
                seconds = service.expected(visit.clip, name, how, limit or 0)
            except MetadeblurError as error:
                return {expectation: html.wrong(str(error)), start: gr.Button(interactive=False)}
            visit.expectation = seconds
            return {
                expectation: html.quiet(f"Expected time on this machine: {seconds}"),
                start: gr.Button(interactive=not visit.busy),
            }

        def refused(error: MetadeblurError) -> Changes:
            nothing = {expectation: "", start: gr.Button(interactive=False), forget: gr.Button(visible=False)}
            return {**blank(), **nothing, clip: html.wrong(str(error))}

        def brought(known: str, name: str, how: PageEffort, limit: float) -> Changes:
            visit = service.visits.get(known)
            if visit is None:
                return refused(MetadeblurError(_ENDED))
            try:
                taken = service.clip_of(visit)
            except MetadeblurError as error:
                return refused(error)
            shown = {clip: html.chosen(taken), forget: gr.Button(visible=True)}
            return {**blank(), **shown, **expected(visit, name, how, limit)}

        def example(which: str, known: str, name: str, how: PageEffort, limit: float) -> Changes:
            visit = service.visits.get(known)
            if visit is None:
                return refused(MetadeblurError(_ENDED))
            try:
                taken = service.example(visit, which)
            except MetadeblurError as error:
                return {timer: gr.Timer(active=True)} if visit.busy else refused(error)
            shown = {clip: html.chosen(taken), forget: gr.Button(visible=True)}
            return {**blank(), **shown, **expected(visit, name, how, limit)}

        def changed(known: str, name: str, how: PageEffort, limit: float) -> Changes:
            visit = service.visits.get(known)
            shown = {seconds: gr.Number(visible=how == "budget")}
            return {**shown, **expected(visit, name, how, limit)} if visit is not None else shown

        def begin(known: str, name: str, how: PageEffort, limit: float) -> Changes:
            visit = service.visits.get(known)
            if visit is None:
                return refused(MetadeblurError(_ENDED))
            try:
                service.begin(visit, name, how, limit or 0)
            except MetadeblurError as error:
                return {expectation: html.wrong(str(error))}
            visit.headline = ""
            visit.flags = as_flags(name, how, limit or 0)
            return {
                **blank(),
                **expected(visit, name, how, limit),  # of what is begun, however late the choice was
                start: gr.Button(interactive=False),
                cancel: gr.Button(visible=True),
                timer: gr.Timer(active=True),
                **watched(visit),
            }

        def watched(visit: Visit) -> Changes:
            """What there is to see of a visitor's job; what has not changed is left alone."""
            job, taken = visit.job, visit.clip
            if job is None or taken is None:  # cancelled while this look at it was on its way
                return {timer: gr.Timer(active=False)}
            over: Changes = {
                cancel: gr.Button(visible=False),
                start: gr.Button(interactive=True),
                timer: gr.Timer(active=False),
                work: "",
            }
            done = service.finished(visit)
            if done is not None:
                return {
                    **over,
                    stage: html.at_stage("Done"),
                    result: html.result(visit.token, done, taken, visit.flags),
                    compare: html.compare(visit.token, done),
                }
            if job.over:
                service.cancel(visit)  # what it has written is of no use
                return {**over, stage: html.wrong(reason(taken, job.error))}
            head = html.headline(job, service.line.before(job))
            news: Changes = {} if head == visit.headline else {stage: html.at_stage(head)}
            visit.headline = head
            since = time.monotonic() - job.began if job.began else 0.0
            return {**news, work: html.progress(job, visit.expectation, taken.facts, since)}

        def tick(known: str) -> Changes:
            visit = service.visits.get(known)
            return refused(MetadeblurError(_ENDED)) if visit is None else watched(visit)

        def stop(known: str) -> Changes:
            visit = service.visits.get(known)
            if visit is None:
                return refused(MetadeblurError(_ENDED))
            service.cancel(visit)
            ended = {stage: html.at_stage("Cancelled; nothing of it is left")}
            return {**blank(), **ended, start: gr.Button(interactive=visit.clip is not None)}

        def drop_all(known: str) -> Changes:
            visit = service.visits.get(known)
            if visit is not None:
                service.cancel(visit)
                visit.empty()
            nothing = {expectation: "", start: gr.Button(interactive=False), forget: gr.Button(visible=False)}
            return {**blank(), **nothing, clip: html.quiet("Your clip and its result are deleted.")}

        page.load(arrive, None, [token, drop], js=html.NAMES_SCRIPT, **quick)
        drop.brought(brought, chosen, everything, **quick)
        for which, button in examples.items():
            button.click(_first(example, which), chosen, everything, **quick)
        for control in (model, effort, seconds):
            control.change(changed, chosen, [seconds, expectation, start], **quick)
        start.click(begin, chosen, everything, **quick)
        timer.tick(tick, [token], everything, **quick)
        cancel.click(stop, [token], everything, **quick)
        forget.click(drop_all, [token], everything, **quick)
    return page


def _first(call: Any, value: str) -> Any:
    """A call with its first value given, with no other names than Gradio looks for."""

    def given(known: str, name: str, how: PageEffort, limit: float) -> Any:
        return call(value, known, name, how, limit)

    return given
