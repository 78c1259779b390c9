"""What the result is, of a shot and of a whole file, in plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from metadeblur.report.html import percent
from metadeblur.report.record import ShotRecord

Result = Literal["untouched", "whole", "part", "unchecked", "dropped", "base"]
"""As the record's outcome, and whether the guard was off or dropped an adaptation that was made."""


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
    'already sharp'
    """
    words = {"motion": "nothing moves in it", "texture": "nothing to restore in it"}
    whys = {words.get(shot.reasons[0].name, "already sharp") if shot.reasons else "already sharp" for shot in shots}
    return whys.pop() if len(whys) == 1 else "nothing to do"


def helped(shot: ShotRecord, mark: str = ";") -> str:
    """What else was done to a shot's restored frames, to be added to a sentence after a mark; may be empty.

    >>> helped(ShotRecord(fused=True, back_projected=True))
    '; neighbouring frames fused; corrected by the blurred frames'
    """
    fused = f"{mark} neighbouring frames fused" if shot.fused else ""
    return fused + (f"{mark} corrected by the blurred frames" if shot.back_projected else "")


def shot_verdict(shot: ShotRecord) -> str:
    """One plain sentence on a shot.

    >>> shot_verdict(ShotRecord(outcome="partly", adapted=True, share=0.5, fused=True))
    'Adapted to your clip: kept in part (50 %); neighbouring frames fused'
    """
    return {
        "untouched": f"Returned unchanged: {why_untouched([shot])}",
        "whole": "Adapted to your clip: kept whole (100 %)",
        "part": f"Adapted to your clip: kept in part ({percent(shot.share)})",
        "unchecked": "Adapted to your clip: used whole, not checked by the guard",
        "dropped": "Base model used: the adaptation did not help",
        "base": "Base model used: no adaptation was made",
    }[shot_result(shot)] + helped(shot)


def overall_verdict(shots: Sequence[ShotRecord]) -> str:
    """One plain sentence on all shots of a file.

    >>> overall_verdict([ShotRecord(outcome="partly", share=0.5), ShotRecord()])
    'Adapted to your clip: 1 of 2 shots kept in part, 1 with the base model'
    """
    if not shots:
        return "Nothing was restored"
    sentences = {shot_verdict(shot) for shot in shots}
    if len(sentences) == 1:
        return sentences.pop()
    counts = Counter(shot_result(shot) for shot in shots)
    counts["base"] += counts.pop("dropped", 0)
    words: dict[Result, str] = {
        "whole": "kept whole",
        "part": "kept in part",
        "unchecked": "used without the guard",
        "base": "with the base model",
        "untouched": "returned unchanged",
    }
    parts = [f"{counts[kind]} {what}" for kind, what in words.items() if counts[kind]]
    first, _, rest = parts[0].partition(" ")
    parts[0] = f"{first} of {len(shots)} shots {rest}"
    adapted = counts["whole"] + counts["part"] + counts["unchecked"]
    return ("Adapted to your clip: " if adapted else "Not adapted: ") + ", ".join(parts)
