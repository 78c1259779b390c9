"""What the result is, of a shot and of a whole file: a headline, and one line of why, in words for anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metadeblur.guard.judge import Reason
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.system.names import counted

Result = Literal["untouched", "whole", "part", "unchecked", "dropped", "base"]
"""As the record's outcome, and whether the guard was off or dropped an adaptation that was made."""


BUILT_IN = "the built-in network"
_OURS = "lite"


@dataclass(frozen=True)
class PlainVerdict:
    """A result in plain words.

    Attributes:
        headline: the result itself.
        why: one line on how it came about; may be empty.
    """

    headline: str
    why: str = ""


_LEARNT: dict[Result, str] = {
    "whole": "The network learnt from your clip.",
    "part": "Your clip taught the network a little.",
    "unchecked": "The network learnt from your clip.",
    "dropped": "Restored with {network}.",
}

_UNLEARNT = {
    "off": "Restored with {network}.",
    "picture": "Restored with {network}.",
    "short": "Too little to learn from here: restored with {network}.",
    "small": "Too little to learn from here: restored with {network}.",
    "still": "Too little to learn from here: restored with {network}.",
    "quick": "Restored with {network}.",
    "time": "Nothing learnt in this time: restored with {network}.",
}

_WHY_UNLEARNT = {
    "off": "Learning from the clip was switched off.",
    "picture": "A single picture shows no motion to learn from.",
    "short": "Learning takes five frames or more of one shot.",
    "small": "Learning takes frames of 32 pixels or more a side.",
    "still": "Too little moves in it.",
    "quick": "Quick: nothing was learnt from the clip.",
    "time": "The time limit was too short to learn from the clip.",
}

_HARM = {
    "colour drift": "changed the colours",
    "ringing": "drew hard outlines beside edges",
    "divergence": "drew things that the clip does not show",
    "flicker": "made the picture flicker",
    "reblur consistency": "did not fit what the camera saw",
    "sharpness": "made the picture softer",
    "held-out pairs": "did not help on parts of the clip kept for checking",
    "motion pairs": "did not help on parts of the clip kept for checking",
    "finite": "gave broken pictures",
    "diverged": "went astray",
}
"""What an adaptation would have done, by the name of the vote against it."""


def shot_result(shot: ShotRecord) -> Result:
    """How a shot was restored, and whether an adaptation was checked or dropped.

    >>> shot_result(ShotRecord(outcome="partly", adapted=True, share=0.5))
    'part'
    """
    if shot.outcome == "untouched":
        return "untouched"
    if shot.outcome == "base":
        return "dropped" if shot.adapted or shot.losses else "base"
    if shot.outcome == "partly":
        return "part"
    return "unchecked" if {reason.name for reason in shot.reasons} <= {"guard"} else "whole"


def why_untouched(shots: Sequence[ShotRecord]) -> str:
    """Why shots were returned unchanged, in a few words.

    >>> why_untouched([ShotRecord(outcome="untouched")])
    'Already sharp'
    """
    words = {"motion": "Nothing moves in it", "texture": "Nothing to see in it"}
    whys = {words.get(shot.reasons[0].name, "Already sharp") if shot.reasons else "Already sharp" for shot in shots}
    return whys.pop() if len(whys) == 1 else "Nothing to do"


def helped(shot: ShotRecord) -> str:
    """What else was done to a shot's restored frames, as a sentence; may be empty.

    >>> helped(ShotRecord(fused=True, back_projected=True))
    'Neighbouring frames and the blurred ones added detail.'
    """
    if shot.fused:
        return f"Neighbouring frames{' and the blurred ones' if shot.back_projected else ''} added detail."
    return ""


def network_of(record: RunRecord) -> str:
    """What a person calls the network of a run.

    >>> network_of(RunRecord(settings={"model": "other.safetensors"}))
    'the network as it is'
    """
    return BUILT_IN if record.settings.get("model", _OURS) == _OURS else "the network as it is"


def shot_verdict(shot: ShotRecord, network: str = BUILT_IN) -> PlainVerdict:
    """The verdict on a shot; ``network`` is what a person calls the network.

    >>> shot = ShotRecord(stop=45, outcome="partly", adapted=True, share=0.5, sharper=41)
    >>> shot_verdict(shot).headline
    'Sharper: 41 of 45 frames. Your clip taught the network a little.'
    """
    return overall_verdict([shot], network)


def overall_verdict(shots: Sequence[ShotRecord], network: str = BUILT_IN) -> PlainVerdict:
    """The verdict on all shots of a file; ``network`` is what a person calls the network.

    >>> overall_verdict([ShotRecord(outcome="untouched")] * 3).headline
    'Already sharp: nothing was changed.'
    """
    if not shots:
        return PlainVerdict("Nothing was restored.")
    restored = [shot for shot in shots if shot.outcome != "untouched"]
    if not restored:
        return PlainVerdict(f"{why_untouched(shots)}: nothing was changed.")
    headline = f"{_sharper(restored)} {_how(restored)}".strip()
    why = _why(shots[0]) if len(shots) == 1 else _counts(shots)
    return PlainVerdict(headline.format(network=network), why.format(network=network))


def _sharper(shots: Sequence[ShotRecord]) -> str:
    """How many frames of restored shots are sharper; nothing where that was not measured."""
    if any(shot.sharper is None for shot in shots):
        return ""
    sharper, frames = sum(shot.sharper or 0 for shot in shots), sum(shot.length for shot in shots)
    if not sharper:
        return "Hardly sharper than before." if frames > 1 else "Hardly sharper than it was."
    return "Sharper." if frames == 1 else f"Sharper: {sharper} of {frames} frames."


def _how(shots: Sequence[ShotRecord]) -> str:
    """What was learnt: the most of it that any of the restored shots shows."""
    results = {shot_result(shot): shot for shot in reversed(shots)}
    for result in ("whole", "unchecked", "part", "dropped"):
        if result in results:
            return _LEARNT[result]
    return _UNLEARNT[results["base"].unlearnt or "off"]


def _why(shot: ShotRecord) -> str:
    """Why a restored shot came out as it did."""
    result = shot_result(shot)
    against = [reason for reason in shot.reasons if not reason.passed and reason.name in _HARM]
    first = {
        "whole": "Every check passed." if shot.reasons else "",
        "unchecked": "The guard was switched off: nothing was checked.",
        "part": _in_part(shot.share, against),
        "dropped": f"What it learnt from the clip was not used: it {_harm(against)}.",
        "base": _WHY_UNLEARNT[shot.unlearnt or "off"],
    }[result]
    return " ".join(filter(None, (first, helped(shot))))


def _in_part(share: float, against: Sequence[Reason]) -> str:
    """Why an adaptation is used in part."""
    used = {0.25: "A quarter", 0.5: "Half", 0.75: "Three quarters"}.get(share, f"{100 * share:.0f} %")
    return f"{used} of what it learnt is used: {f'more {_harm(against)}' if against else 'that helped most'}."


def _harm(against: Sequence[Reason]) -> str:
    """What an adaptation did, by the last vote against it: the one nearest to what is used instead."""
    return _HARM[against[-1].name] if against else "did not help"


def _counts(shots: Sequence[ShotRecord]) -> str:
    """How the shots of a file were restored."""
    words: dict[Result, str] = {
        "whole": "learnt from",
        "unchecked": "learnt from, unchecked",
        "part": "learnt from a little",
        "base": "restored with {network}",
        "untouched": "left unchanged",
    }
    found = Counter(shot_result(shot) for shot in shots)
    found["base"] += found.pop("dropped", 0)
    parts = [f"{found[result]} {what}" for result, what in words.items() if found[result]]
    return f"{counted(len(shots), 'shot')}: {', '.join(parts)}."
