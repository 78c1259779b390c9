"""Check files of ``torch.save`` before ``torch.load`` reads them; sizes come from the headers.

Two formats: a zip archive with the list of tensors (``data.pkl``) and one entry for the values of each storage, and the
older one, pickles with the values after them. In both, what the list claims has to be what the file has room for.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import BinaryIO

import torch

from metadeblur.models.formats.pickle_scan import MAGIC, MOST_TENSORS, NotPlain, PickleContents, scan
from metadeblur.system.memory import available_bytes
from metadeblur.system.plain_files import sized

MOST_BYTES = 16 << 30  # of all tensors of a file
_MOST_LIST = 32 << 20  # bytes of the list of tensors
_MOST_ENTRIES = MOST_TENSORS + 50
_MOST_GROWTH = 20  # times its size that a zip archive may unpack to; torch.save does not compress at all
_SLACK = 1 << 20  # bytes that a small file may grow by, whatever its size
_END = struct.Struct("<4s4H2LH")  # a zip archive's end: mark, disks, entries here and in all, size and place, comment
_END_64 = struct.Struct("<4sLQL")
_FULL_END_64 = struct.Struct("<4sQ2H2L4Q")
_STORAGE_HEAD = struct.Struct("<q")  # of the older format: how many values follow


def check_torch_file(file: BinaryIO) -> None:
    """Refuse what is no plain checkpoint, or claims more than it holds; the file is left at its beginning.

    Raises:
        NotPlain: it holds more than weights.
        ValueError: it is another kind of file, damaged, or too large.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    contents = _in_zip(file, size) if file.read(4) == b"PK\x03\x04" else _in_older(file, size)
    if not contents.tensors:
        file.seek(0)
        return
    claimed = sum(tensor.size for tensor in contents.tensors)
    held = sum(storage.size for storage in contents.storages.values())
    if claimed > 4 * held + 64 * _SLACK:
        raise ValueError(f"its tensors claim {sized(claimed)}, but it holds values of {sized(held)}")
    check_fits(held)
    file.seek(0)


def check_fits(held: int) -> None:
    """Refuse tensors of so many bytes where they are more than any weight file's, or than memory takes twice.

    Raises:
        ValueError: they are.
    """
    if held > MOST_BYTES:
        raise ValueError(f"holds {sized(held)} of tensors; a weight file has {sized(MOST_BYTES)} at most")
    room = available_bytes(torch.device("cpu"))
    if held > room:
        raise ValueError(f"holds {sized(held)} of tensors, and this computer has {sized(room)} of memory for them")


def _in_zip(file: BinaryIO, size: int) -> PickleContents:
    """What the list of tensors in a zip archive makes."""
    _check_directory(file, size)
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _checked_entries(archive.infolist(), size)
            if "constants.pkl" in entries:
                raise ValueError("is a TorchScript program; save its state_dict() instead")
            if "data.pkl" not in entries:
                raise ValueError("is a zip archive without weights; unpack it and give the file inside")
            entry = entries["data.pkl"]
            if entry.file_size > _MOST_LIST:
                raise ValueError(f"its list of tensors has {sized(entry.file_size)}")
            contents = scan(io.BytesIO(archive.read(entry)))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"damaged: {str(error).strip() or type(error).__name__}") from error
    for key, storage in contents.storages.items():
        values = entries.get(f"data/{key}")
        if values is None or values.file_size != storage.size:
            there = "nothing" if values is None else sized(values.file_size)
            raise ValueError(f"its list promises {sized(storage.size)} of values {key!r:.40}, and it holds {there}")
    return contents


def _check_directory(file: BinaryIO, size: int) -> None:
    """Bound the archive's list of entries, from its very end, before anything reads it."""
    file.seek(max(size - _END.size - _END_64.size, 0))
    tail = file.read()
    if size < _END.size + 30 or not tail[-_END.size :].startswith(b"PK\x05\x06"):
        raise ValueError("its end is missing: the download or copy was cut off; fetch it again")
    *_, entries, listed, _, _ = _END.unpack(tail[-_END.size :])
    if tail.startswith(b"PK\x06\x07"):
        _, _, place, _ = _END_64.unpack(tail[: _END_64.size])
        if place + _FULL_END_64.size > size:
            raise ValueError("its end is damaged; fetch it again")
        file.seek(place)
        mark, *_, entries, listed, _ = _FULL_END_64.unpack(file.read(_FULL_END_64.size))
        if mark != b"PK\x06\x06":
            raise ValueError("its end is damaged; fetch it again")
    if entries > _MOST_ENTRIES or listed > 512 * _MOST_ENTRIES:
        raise ValueError(f"has {entries} entries; a weight file has {_MOST_ENTRIES} at most")


def _checked_entries(listed: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name within the archive's one folder."""
    if sum(entry.file_size for entry in listed) > min(_MOST_GROWTH * size + _SLACK, MOST_BYTES):
        raise ValueError(f"unpacks to {sized(sum(entry.file_size for entry in listed))}, far more than it holds")
    if sum(entry.compress_size for entry in listed) > size:
        raise ValueError("its entries lie over one another")
    if any(entry.flag_bits & 1 for entry in listed):
        raise ValueError("is encrypted; unpack it and give the file inside")
    names = [entry.filename for entry in listed]
    folders = {name.partition("/")[0] for name in names}
    if len(folders) > 1 or len({name.casefold() for name in names}) < len(names):
        raise ValueError("is a zip archive of several files; unpack it and give the file inside")
    return {entry.filename.partition("/")[2]: entry for entry in listed}


def _in_older(file: BinaryIO, size: int) -> PickleContents:
    """What the list of tensors of the older format makes; the values have to follow it, each as many as it says."""
    file.seek(0)
    head = io.BytesIO(file.read(_MOST_LIST))
    if scan(head).value != MAGIC:
        raise NotPlain("a pickle that torch.save did not write")
    scan(head), scan(head)  # the format's version, and the machine that wrote it
    contents, keys = scan(head), scan(head).value
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(contents.storages):
        raise ValueError("its values are not those that its list promises")
    place = head.tell()
    for key in keys:
        storage = contents.storages[key]
        file.seek(place)
        start = file.read(_STORAGE_HEAD.size)
        place += _STORAGE_HEAD.size + storage.size
        if len(start) < _STORAGE_HEAD.size or _STORAGE_HEAD.unpack(start)[0] != storage.count or place > size:
            raise ValueError(f"its list promises {sized(storage.size)} of values {key!r:.40}, and it holds fewer")
    return contents
