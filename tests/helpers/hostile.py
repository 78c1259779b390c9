"""Weight files as somebody who means harm would write them: small ones, whose headers claim much."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Stored:
    """The values of a storage, wherever they are."""

    def __init__(self, key: str = "0", count: int = 4) -> None:
        self.key, self.count = key, count


class Viewed:
    """A tensor with any shape and strides over a storage."""

    def __init__(self, storage: Stored, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.asked = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.asked


class Called:
    """A call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> Any:
        return self.asked


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Stored):
            return ("storage", torch.FloatStorage, value.key, "cpu", value.count, *self.view)
        return None

    view: tuple[Any, ...] = ()


class _OldPickler(_Pickler):
    view = (None,)


def pickled(value: Any, *, older: bool = False) -> bytes:
    """A pickle as torch.save writes it."""
    stream = io.BytesIO()
    (_OldPickler if older else _Pickler)(stream, protocol=2).dump(value)
    return stream.getvalue()


def zipped(
    path: Path, listed: bytes, values: Mapping[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """A checkpoint of the newer format with any list of tensors and any values."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", listed)
        archive.writestr("archive/version", "3\n")
        for key, data in (values or {"0": b"\0" * 16}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def claiming(path: Path, size: int) -> Path:
    """The same archive, whose directory claims that its values unpack to so many bytes."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    struct.pack_into("<L", data, place + 24, size)
    path.write_bytes(data)
    return path


def older(path: Path, value: Any, keys: list[str], values: bytes) -> Path:
    """A checkpoint of the older format: the magic number, version, machine, list and keys as pickles, then values."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, about)]
    path.write_bytes(b"".join([*parts, pickled(value, older=True), pickle.dumps(keys, 2), values]))
    return path


def safetensors(path: Path, header: str | Mapping[str, Any], values: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header, which may lie about its length."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + values)
    return path


def special(folder: Path) -> dict[str, Path]:
    """Things in a folder that are no plain files."""
    import socket

    (folder / "folder.pth").mkdir()
    os.mkfifo(folder / "pipe.pth")
    (folder / "loop.pth").symlink_to(folder / "loop.pth")
    (folder / "zero.pth").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(folder / "socket.pth"))
    return {
        "a folder": folder / "folder.pth",
        "a pipe": folder / "pipe.pth",
        "a link that leads to itself": folder / "loop.pth",
        "a device": folder / "zero.pth",
        "a socket": folder / "socket.pth",
    }
