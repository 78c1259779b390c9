"""Benchmarks on disk: their folder layouts, which frames belong together, what is missing.

Frames are paired by name, never by position; frames without a partner are refused. :attr:`Benchmark.notes` says which
frames were taken and how they differ from the published set, since other frames give other figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from metadeblur.data.folders import (
    ClipFolder,
    Search,
    enumerated,
    folders_in,
    last_number,
    paired,
    part_folder,
    pictures,
)
from metadeblur.errors import MetadeblurError
from metadeblur.limits import meant
from metadeblur.system.names import natural

__all__ = ["DVD_TEST", "LAYOUTS", "Benchmark", "ClipFolder", "open_benchmark", "plain_clips", "recognise"]

DVD_TEST = (
    "720p_240fps_2",
    "IMG_0003",
    "IMG_0021",
    "IMG_0030",
    "IMG_0031",
    "IMG_0032",
    "IMG_0033",
    "IMG_0037",
    "IMG_0039",
    "IMG_0049",
)
"""The ten test clips of the DVD set (Su et al., CVPR 2017), as its authors name them."""


@dataclass(frozen=True)
class Benchmark:
    """The paired clips below a folder, and their layout."""

    layout: str  # a key of LAYOUTS
    part: str  # which part of the set, such as test; empty where a layout has none
    inputs: str  # the folder that the blurred frames come from
    clips: tuple[ClipFolder, ...]
    notes: tuple[str, ...] = ()  # what a reader of the figures must know

    @property
    def frames(self) -> int:
        """Frames of all clips."""
        return sum(len(clip.blurred) for clip in self.clips)


@dataclass(frozen=True)
class Layout:
    """A benchmark's folders, and the parts that its papers report."""

    tree: str  # for people
    is_here: Callable[[Path], bool]  # whether a folder looks so
    find: Callable[[Search], None]
    parts: tuple[str, ...] = ()  # the first one that is there is taken by default
    published: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # clips and images of a part


def open_benchmark(root: Path, layout: str = "auto", *, part: str = "", inputs: str = "blur") -> Benchmark:
    """Find the paired clips below ``root``.

    Args:
        root: the benchmark's folder, or the folder that it is in.
        layout: a key of :data:`LAYOUTS`, or "auto" to recognise it.
        part: which part of the set; empty: the one that papers report (the test set), or the only one there.
        inputs: folder of the blurred frames where a layout offers several (GoPro: blur or blur_gamma).

    Raises:
        MetadeblurError: no such layout, part or folder, no clip, or frames or folders that have no partner.
    """
    if layout != "auto" and layout not in LAYOUTS:
        hint = meant(layout, ("auto", *LAYOUTS))
        raise MetadeblurError(f"layout {layout!r} is not known; allowed: auto, {', '.join(LAYOUTS)}{hint}")
    if not root.is_dir():
        raise MetadeblurError(f"{root} is not a folder; give the folder that holds the clips")
    matches = [("plain", root)] if layout == "plain" else recognise(root)
    matches = [(name, base) for name, base in matches if layout in ("auto", name)]
    if not matches and layout != "auto":
        raise MetadeblurError(f"{root}: no clips in the layout {layout}, which is {LAYOUTS[layout].tree}")
    if len(matches) > 1 and len({name for name, _ in matches}) == 1:
        matches = _with_the_part(matches, part) or matches  # such as REDS' training and validation set side by side
    if len(matches) > 1:
        places = ", ".join(f"{name} in {base}" for name, base in matches)
        raise MetadeblurError(f"{root} holds several benchmarks ({places}); give the folder of one")
    name, base = matches[0] if matches else ("plain", root)
    parts = LAYOUTS[name].parts
    if part and part not in parts:
        allowed = f"its parts are {', '.join(parts)}" if parts else "it has no parts"
        raise MetadeblurError(f"part {part!r} is not known in the layout {name}; {allowed}{meant(part, parts)}")
    search = Search(base, part, inputs)
    LAYOUTS[name].find(search)
    if search.wrong:
        raise MetadeblurError(" | ".join(search.wrong))
    if not search.clips:
        raise MetadeblurError(f"{base}: no clip found; the layout {name} is {LAYOUTS[name].tree}")
    clips = tuple(sorted(search.clips, key=lambda clip: natural(clip.name)))
    benchmark = Benchmark(name, search.part, search.inputs, clips, tuple(search.notes))
    return _counted(benchmark)


def recognise(root: Path) -> list[tuple[str, Path]]:
    """The benchmarks in a folder as (layout, folder): the folder itself is one, or some of those right inside it are.

    Sets that are unpacked side by side are all found, also where one of them lies straight in the folder (REDS as
    ``val``, RealBlur as its scenes' folder). A folder of plain clips counts as one where nothing else is found.
    """
    named = {name: entry for name, entry in LAYOUTS.items() if name != "plain"}
    own = [(name, root) for name, entry in named.items() if entry.is_here(root)]
    # What a set's own folders hold is part of it, not another set of the same kind.
    others = [name for name in named if name not in {found for found, _ in own}]
    inside = [(name, base) for base in folders_in(root) for name in others if named[name].is_here(base)]
    if own or inside:
        return own + inside
    return [("plain", root)] if LAYOUTS["plain"].is_here(root) else []


def _with_the_part(matches: Sequence[tuple[str, Path]], part: str) -> list[tuple[str, Path]]:
    """Those of several folders of one layout that hold a part; of none asked for, the one that papers report."""
    wanted = part or next(iter(LAYOUTS[matches[0][0]].parts), "")
    having = []
    for name, base in matches:
        search = Search(base, wanted, "blur")
        with suppress(MetadeblurError):
            LAYOUTS[name].find(search)
        if search.clips or search.wrong:
            having.append((name, base))
    return having


def plain_clips(root: Path) -> list[ClipFolder]:
    """Clips in the plain layout ``<clip>/{blur,sharp}/<frame>`` anywhere below ``root``, sorted by name.

    Raises:
        MetadeblurError: no such clip, or folders or frames that have no partner of the same name (they are listed).
    """
    return list(open_benchmark(root, "plain").clips)


def _counted(benchmark: Benchmark) -> Benchmark:
    """The benchmark with a note where it is not as large as the published one."""
    published = LAYOUTS[benchmark.layout].published.get(benchmark.part)
    here = (len(benchmark.clips), benchmark.frames)
    if published is None or here == published:
        return benchmark
    clips, images = published
    note = (
        f"{here[0]} clips with {here[1]:,} images are here, the published set has {clips} with {images:,}: "
        "figures of papers are not figures of these clips"
    )
    return replace(benchmark, notes=(*benchmark.notes, note))


# --- the layouts ---------------------------------------------------------------------------------------------------


def _find_plain(search: Search) -> None:
    search.part, search.inputs = "", "blur"
    folders = {path.parent for side in ("blur", "sharp") for path in search.root.rglob(side) if path.is_dir()}
    for folder in sorted(folders):
        # A folder whose name begins with a dot is a clip that is still being made.
        if not folder.name.startswith("."):
            name = str(folder.relative_to(search.root)) if folder != search.root else folder.name
            search.pair(name, folder / "blur", folder / "sharp")


def _is_plain(base: Path) -> bool:
    return any(path.is_dir() for path in base.rglob("blur"))


def _is_gopro(base: Path) -> bool:
    parted = [sequence for part in ("train", "test") for sequence in folders_in(base / part)]
    sequences = parted or folders_in(base)
    if any((sequence / "blur_gamma").is_dir() for sequence in sequences):
        return True
    others = [folder for folder in folders_in(base) if folder.name not in ("train", "test")]
    return bool(parted) and not others and all((folder / "sharp").is_dir() for folder in parted)


def _find_gopro(search: Search) -> None:
    if search.inputs not in ("blur", "blur_gamma"):
        raise MetadeblurError(f"inputs {search.inputs!r} is not known in the layout gopro; allowed: blur, blur_gamma")
    for sequence in folders_in(part_folder(search, ("test", "train"))):
        # Where REDS was unpacked into the same folder, its train_blur and train_sharp stand among the sequences.
        if any((sequence / side).is_dir() for side in ("blur", "blur_gamma", "sharp")):
            search.pair(sequence.name, sequence / search.inputs, sequence / "sharp")
    kind = "linear averages, which most papers use" if search.inputs == "blur" else "averages in linear light"
    search.notes.append(f"the blurred frames are those of {search.inputs} ({kind})")


def _is_dvd(base: Path) -> bool:
    home = base / "quantitative_datasets"
    sequences = folders_in(home if home.is_dir() else base)
    return home.is_dir() or any((s / "GT").is_dir() and (s / "input").is_dir() for s in sequences)


def _find_dvd(search: Search) -> None:
    home = search.root / "quantitative_datasets"
    sequences = folders_in(home if home.is_dir() else search.root)
    search.inputs = "input"
    tested = [folder for folder in sequences if folder.name in DVD_TEST]
    if not search.part:
        search.part = "test" if tested else "all"
        if not tested:
            search.notes.append("none of the ten published test clips is here: all clips are taken")
    chosen = {
        "test": tested,
        "train": [folder for folder in sequences if folder.name not in DVD_TEST],
        "all": sequences,
    }[search.part]
    for sequence in chosen:
        search.pair(sequence.name, sequence / "input", sequence / "GT")
    missing = sorted(set(DVD_TEST) - {folder.name for folder in tested})
    if search.part == "test" and missing:
        search.notes.append(f"published test clips that are not here: {', '.join(missing)}")


def _reds_folders(base: Path, part: str) -> tuple[Path, Path] | None:
    for home in (base / part, base):
        sides = (home / f"{part}_blur", home / f"{part}_sharp")
        if any(side.is_dir() for side in sides):
            return sides
    return None


def _is_reds(base: Path) -> bool:
    return any(_reds_folders(base, part) is not None for part in ("val", "train"))


def _find_reds(search: Search) -> None:
    parts = [search.part] if search.part else ["val", "train"]
    part = next((part for part in parts if _reds_folders(search.root, part)), parts[0])
    sides = _reds_folders(search.root, part)
    if sides is None:
        raise MetadeblurError(f"{search.root}: no folder {part}_blur; choose another --part")
    search.part, search.inputs = part, sides[0].name
    names = {folder.name for side in sides for folder in folders_in(side)}
    for name in sorted(names, key=natural):
        search.pair(name, sides[0] / name, sides[1] / name)


def _realblur_home(base: Path) -> list[Path]:
    """Folders with scenes: the folder itself, or those of RealBlur-J and -R inside it."""
    homes = [folder for folder in (base, *folders_in(base)) if any((s / "gt").is_dir() for s in folder.glob("scene*"))]
    return homes[:1] if homes[:1] == [base] else homes


def _is_realblur(base: Path) -> bool:
    return bool(_realblur_home(base))


def _find_realblur(search: Search) -> None:
    homes = {_realblur_kind(home): home for home in _realblur_home(search.root)}
    kind = search.part or next(iter(sorted(homes)))
    if kind not in homes:
        raise MetadeblurError(f"{search.root}: RealBlur-{kind} is not here; there is RealBlur-{', -'.join(homes)}")
    if len(homes) > 1:
        search.notes.append(f"RealBlur-{kind} is measured; --part {'R' if kind == 'J' else 'J'} measures the other")
    home = homes[kind]
    search.part, search.inputs = kind, "blur"
    listing = next(
        (path for place in (home, home.parent) for path in place.glob(f"RealBlur[_-]{kind}_test_list.txt")), None
    )
    if listing is None:
        search.notes.append(f"the official list RealBlur_{kind}_test_list.txt is not here: all scenes are taken")
        for scene in sorted(home.glob("scene*")):
            search.pair(scene.name, scene / "blur", scene / "gt", key=last_number)
    else:
        _find_listed(search, home, listing)
        search.notes.append(f"the images are those of the list {listing.name}")
    search.clips = [replace(clip, sizes_differ=True) for clip in search.clips]


def _realblur_kind(home: Path) -> str:
    """J or R, from the folder's name; J where it does not say."""
    return "R" if re.search(r"realblur[-_]r", home.name, re.IGNORECASE) else "J"


def _find_listed(search: Search, home: Path, listing: Path) -> None:
    """The pairs that a list names, one a line: sharp file, blurred file."""
    scenes: dict[str, list[tuple[Path, Path]]] = {}
    for line in listing.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words:
            continue
        # Lists differ in what they put before scene/gt/gt_1.png, so the last three parts count.
        files = [home / Path(*Path(word.replace("\\", "/")).parts[-3:]) for word in words[:2]]
        if len(files) < 2:
            search.wrong.append(f"{listing.name}: a line needs a sharp and a blurred file, not {line!r}")
            continue
        sharp, blurred = files if files[0].parent.name == "gt" else files[::-1]
        scenes.setdefault(sharp.parent.parent.name, []).append((blurred, sharp))
    for name, pairs in scenes.items():
        absent = [f"{path.parent.name}/{path.name}" for pair in pairs for path in pair if not path.is_file()]
        odd = [blurred.name for blurred, sharp in pairs if last_number(blurred.stem) != last_number(sharp.stem)]
        if absent:
            search.wrong.append(f"{name}: files of {listing.name} that are not here: {enumerated(absent)}")
        elif odd:
            search.wrong.append(f"{name}: {listing.name} pairs different numbers: {enumerated(odd)}")
        else:
            pairs.sort(key=lambda pair: natural(pair[0].stem))
            blurred_files, sharp_files = zip(*pairs, strict=True)
            search.clips.append(ClipFolder(name, blurred_files, sharp_files))


def _bsd_homes(base: Path) -> list[Path]:
    """Folders that hold train, valid and test of one exposure."""

    def holds(folder: Path) -> bool:
        return any((s / "Sharp").is_dir() for part in ("test", "valid", "train") for s in folders_in(folder / part))

    return [folder for folder in (base, *folders_in(base)) if holds(folder)]


def _is_bsd(base: Path) -> bool:
    return bool(_bsd_homes(base))


def _find_bsd(search: Search) -> None:
    homes = _bsd_homes(search.root)
    if len(homes) > 1:
        names = ", ".join(home.name for home in homes)
        raise MetadeblurError(
            f"{search.root} holds several exposures ({names}), which papers report apart; give the folder of one"
        )
    search.root, search.inputs = homes[0], "Blur/RGB"
    for sequence in folders_in(part_folder(search, ("test", "valid", "train"))):
        search.pair(sequence.name, sequence / "Blur" / "RGB", sequence / "Sharp" / "RGB")


def _is_hide(base: Path) -> bool:
    parts = ("test", "train")
    return (base / "GT").is_dir() and any((base / part).is_dir() for part in parts) and not _is_dvd(base)


def _find_hide(search: Search) -> None:
    search.inputs = ""
    home = part_folder(search, ("test", "train"))
    truth = pictures(search.root / "GT", str)
    for folder in [folder for folder in (home, *folders_in(home)) if pictures(folder, str)]:
        blurred = pictures(folder, str)
        lonely = sorted(set(blurred) - set(truth), key=natural)
        if lonely:
            search.wrong.append(f"{folder.name}: pictures without a partner in GT: {enumerated(lonely)}")
            continue
        order = sorted(blurred, key=natural)
        search.clips.append(replace(paired(folder.name, order, blurred, truth), video=False))
    search.notes.append("pictures that do not follow one another: nothing can adapt to them, adapted is base")


LAYOUTS: dict[str, Layout] = {
    "gopro": Layout(
        tree="train|test/SEQUENCE/{blur,blur_gamma,sharp}",
        is_here=_is_gopro,
        find=_find_gopro,
        parts=("test", "train"),
        published={"test": (11, 1111), "train": (22, 2103)},
    ),
    "dvd": Layout(
        tree="quantitative_datasets/SEQUENCE/{input,GT}",
        is_here=_is_dvd,
        find=_find_dvd,
        parts=("test", "train", "all"),
        published={"test": (10, 1000)},
    ),
    "reds": Layout(
        tree="{train,val}/{train,val}_{blur,sharp}/SEQUENCE",
        is_here=_is_reds,
        find=_find_reds,
        parts=("val", "train"),
        published={"val": (30, 3000), "train": (240, 24000)},
    ),
    "realblur": Layout(
        tree="RealBlur-J_ECC_.../sceneNNN/{blur,gt} beside RealBlur_J_test_list.txt",
        is_here=_is_realblur,
        find=_find_realblur,
        parts=("J", "R"),
        published={"J": (50, 980), "R": (50, 980)},
    ),
    "bsd": Layout(
        tree="EXPOSURE/{train,valid,test}/SEQUENCE/{Blur,Sharp}/RGB",
        is_here=_is_bsd,
        find=_find_bsd,
        parts=("test", "valid", "train"),
        published={"test": (20, 3000)},
    ),
    "hide": Layout(
        tree="test/{test-close-ups,test-long-shot}, train and GT",
        is_here=_is_hide,
        find=_find_hide,
        parts=("test", "train"),
        published={"test": (2, 2025)},
    ),
    "plain": Layout(tree="CLIP/{blur,sharp} with frames of equal names", is_here=_is_plain, find=_find_plain),
}
"""The benchmarks that are known, by the name that ``--layout`` takes."""
