"""What became of a shot, and of a whole file, in plain sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metadeblur.report.html import as_number, as_tables, percent


def share_of(shot: Mapping[str, Any]) -> float:
    """The share of a shot's adaptation that is used, 0 to 1."""
    share = as_number(shot.get("share"))
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def shot_outcome(shot: Mapping[str, Any]) -> str:
    """What became of a shot: "unchanged", "whole", "part", "unchecked", "dropped" or "base" (nothing was adapted).

    >>> shot_outcome({"adapted": True, "share": 0.5, "reasons": [{"name": "gain", "passed": True}]})
    'part'
    """
    share, reasons = share_of(shot), as_tables(shot.get("reasons"))
    if shot.get("untouched"):
        return "unchanged"
    if not shot.get("adapted") and not shot.get("losses"):
        return "base"
    if share < 0.005:
        return "dropped"
    if share > 0.995 and {reason.get("name") for reason in reasons} <= {"guard"}:
        return "unchecked"
    return "whole" if share > 0.995 else "part"


def why_untouched(shots: Sequence[Mapping[str, Any]]) -> str:
    """Why shots that are returned unchanged are, in a few words.

    >>> why_untouched([{"reasons": [{"name": "motion"}]}])
    'nothing moves in it'
    """
    words = {"motion": "nothing moves in it", "texture": "nothing to restore in it"}
    names = [reason.get("name") for shot in shots for reason in as_tables(shot.get("reasons"))[:1]]
    found = {words.get(str(name), "already sharp") for name in names} or {"already sharp"}
    return found.pop() if len(found) == 1 else "nothing to do"


def helped(shot: Mapping[str, Any], mark: str = ";") -> str:
    """What else became of a shot's restored frames, to be added to a sentence after a mark; may be empty.

    >>> helped({"fused": True, "back_projected": True})
    '; neighbouring frames fused; corrected by the blurred frames'
    """
    said = f"{mark} neighbouring frames fused" if shot.get("fused") else ""
    return said + (f"{mark} corrected by the blurred frames" if shot.get("back_projected") else "")


def shot_verdict(shot: Mapping[str, Any]) -> str:
    """One plain sentence on what became of a shot.

    >>> shot_verdict({"adapted": True, "share": 1.0, "reasons": [{"name": "gain", "passed": True}]})
    'Adapted to your clip: kept whole (100 %)'
    >>> shot_verdict({"adapted": True, "share": 0.5, "fused": True, "reasons": [{"name": "gain", "passed": True}]})
    'Adapted to your clip: kept in part (50 %); neighbouring frames fused'
    """
    return {
        "unchanged": f"Returned unchanged: {why_untouched([shot])}",
        "whole": "Adapted to your clip: kept whole (100 %)",
        "part": f"Adapted to your clip: kept in part ({percent(share_of(shot))})",
        "unchecked": "Adapted to your clip: used whole, not checked by the guard",
        "dropped": "Base model used: the adaptation did not help",
        "base": "Base model used: no adaptation was made",
    }[shot_outcome(shot)] + helped(shot)


def overall_verdict(shots: Sequence[Mapping[str, Any]]) -> str:
    """One plain sentence on all shots of a file.

    >>> overall_verdict([{"adapted": True, "share": 1, "reasons": [{}]}, {"adapted": False}])
    'Adapted to your clip: 1 of 2 shots kept whole, 1 with the base model'
    """
    if not shots:
        return "Nothing was restored"
    sentences = {shot_verdict(shot) for shot in shots}
    if len(sentences) == 1:
        return sentences.pop()
    counts = Counter(shot_outcome(shot) for shot in shots)
    counts["base"] += counts.pop("dropped", 0)
    words = {
        "whole": "kept whole",
        "part": "kept in part",
        "unchecked": "used without the guard",
        "base": "with the base model",
        "unchanged": "returned unchanged",
    }
    parts = [f"{counts[kind]} {what}" for kind, what in words.items() if counts[kind]]
    first, _, rest = parts[0].partition(" ")
    parts[0] = f"{first} of {len(shots)} shots {rest}"
    adapted = counts["whole"] + counts["part"] + counts["unchecked"]
    return ("Adapted to your clip: " if adapted else "Not adapted: ") + ", ".join(parts)
