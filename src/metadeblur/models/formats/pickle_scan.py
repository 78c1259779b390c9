"""Scan a pickle that PyTorch wrote, without running it: the tensors in it and their sizes.

The opcodes are followed on a stack of stand-ins: a storage is its size, a tensor its shape. Only what weights and
training checkpoints are made of is known here (tensors, numbers, words, lists, dictionaries); whatever else a pickle
asks for is refused before ``torch.load`` sees it, and so are structures that would take for ever to walk through.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

MOST_OPCODES = 1_000_000
MOST_TENSORS = 20_000
MOST_NESTED = 40  # containers within containers
_MOST_SIDES = 16  # dimensions of a tensor
_MOST_NUMBER = 2**62

ITEM_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
_REBUILD = {
    "torch._utils _rebuild_tensor": (4, 4),
    "torch._utils _rebuild_tensor_v2": (6, 7),
}
_WRAP = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values (meta)",
    "_rebuild_tensor_v3": "a tensor of a number format that is not taken (such as float8)",
}
_ORDERED = "collections OrderedDict"
_DTYPE = re.compile(r"torch (bool|bfloat16|(complex|float|u?int)\d+)")


class NotPlain(ValueError):
    """The pickle holds more than plain weights; reading it could run code."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Values that tensors share: how many, of how many bytes each."""

    key: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * ITEM_BYTES[self.kind]


@dataclass(frozen=True)
class TensorPlan:
    """A tensor, and what it is read from."""

    storage: Storage
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes, once it is a tensor of its own."""
        return math.prod(self.shape) * ITEM_BYTES[self.storage.kind]


@dataclass
class PickleContents:
    """What a pickle would make."""

    value: Any = None
    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: list[TensorPlan] = field(default_factory=list)
    opcodes: int = 0


def scan(stream: io.BytesIO) -> PickleContents:
    """Follow one pickle, from where the stream stands to its end.

    Raises:
        NotPlain: it asks for more than tensors, numbers, words and containers.
        ValueError: it is damaged, too long, or nested without end.
    """
    result = _Follower(PickleContents()).follow(stream)
    _check_structure(result.value)
    return result


class _Follower:
    """The stack machine; one method for each group of opcodes."""

    def __init__(self, found: PickleContents) -> None:
        self.found = found
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def follow(self, stream: io.BytesIO) -> PickleContents:
        """Every opcode in turn."""
        for opcode, argument, _ in pickletools.genops(stream):
            self.found.opcodes += 1
            if self.found.opcodes > MOST_OPCODES:
                raise ValueError(f"its list of tensors has more than {MOST_OPCODES} steps")
            try:
                self._step(opcode.name, argument)
            except _DAMAGE as error:
                raise ValueError("its list of tensors is damaged") from error
        if len(self.stack) != 1 or self.marks:
            raise ValueError("its list of tensors is damaged")
        self.found.value = self.stack.pop()
        return self.found

    def _step(self, name: str, argument: Any) -> None:
        if name in _ATOMS:
            self.stack.append(self._atom(argument))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name == "GLOBAL":
            self.stack.append(_named(argument))
        elif name == "REDUCE":
            arguments = self.stack.pop()
            self.stack.append(self._made(self.stack.pop(), arguments))
        elif name == "BUILD":
            self._build()
        elif name == "BINPERSID":
            self.stack.append(self._storage(self.stack.pop()))
        elif name == "PROTO":
            if argument != 2:
                raise ValueError(f"it is a pickle of protocol {argument}; torch.save writes protocol 2 by itself")
        elif name != "STOP":
            raise NotPlain(f"an instruction {name} that torch.save does not write")

    def _atom(self, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > _MOST_NUMBER:
            # Nothing but the magic number of PyTorch's older format is that large.
            return LARGE if value != MAGIC else value
        return value

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _popped(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _tuple(self, count: int | None) -> None:
        items = self._marked() if count is None else self._popped(count)  # first, for it changes the stack
        self.stack.append(tuple(items))

    def _fill(self, name: str) -> None:
        items = self._marked() if name.endswith("S") else self._popped(1 if name == "APPEND" else 2)
        target = self.stack[-1]
        if name.startswith("APPEND"):
            if not isinstance(target, list):
                raise ValueError("its list of tensors is damaged")
            target.extend(items)
        else:
            if not isinstance(target, dict):
                raise ValueError("its list of tensors is damaged")
            target.update(_pairs(items[::2], items[1::2]))

    def _made(self, function: Any, arguments: Any) -> Any:
        """What a call would give, as a stand-in."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise NotPlain("a call of something that is no function of PyTorch's")
        if function.name in _REBUILD:
            least, most = _REBUILD[function.name]
            if not least <= len(arguments) <= most or arguments[6:] not in ((), (None,), ({},)):
                raise NotPlain("a tensor with more to it than its values")
            return self._tensor(*arguments[:4])
        if function.name in _WRAP and isinstance(arguments[0], TensorPlan):
            return arguments[0]
        if function.name == _ORDERED and len(arguments) <= 1:
            pairs = arguments[0] if arguments else []
            if not isinstance(pairs, list):
                raise NotPlain("an OrderedDict made of something else than pairs")
            return _pairs([key for key, _ in pairs], [value for _, value in pairs])
        if function.name == "torch Size" and len(arguments) == 1:
            return _sides(arguments[0])
        if function.name == "torch device" and all(isinstance(word, str | int) for word in arguments):
            return Name("a device")
        if function.name == "_codecs encode" and arguments[1:] in (("latin1",), ("latin-1",)):
            return arguments[0].encode("latin-1")
        raise NotPlain(f"a call of {_spelt(function.name)}")

    def _build(self) -> None:
        """The state of an object: only the versions of layers that a state dict carries."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise NotPlain("an object with a state of its own")

    def _storage(self, about: Any) -> Storage:
        """What a persistent id asks for: ("storage", kind, key, device, count), and a view in the older format."""
        if not isinstance(about, tuple) or len(about) not in (5, 6) or about[0] != "storage":
            raise NotPlain("a reference to something else than values")
        kind, key, device, count = about[1:5]
        name = kind.name.removeprefix("torch ") if isinstance(kind, Name) else ""
        if name not in ITEM_BYTES:
            raise ValueError(f"holds values of a kind that is not taken ({_spelt(getattr(kind, 'name', 'unknown'))})")
        if not isinstance(key, str) or not isinstance(device, str) or not _is_count(count):
            raise ValueError("its list of tensors is damaged")
        storage = Storage(key, name, count)
        if self.found.storages.setdefault(key, storage) != storage:
            raise ValueError(f"its values {key!r:.60} are given two sizes")
        view = about[5] if len(about) == 6 else None
        if view is None:
            return storage
        _, offset, length = view
        if not _is_count(offset) or not _is_count(length) or offset + length > count:
            raise ValueError("a view of values reaches past their end")
        return Storage(key, name, length)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> TensorPlan:
        if not isinstance(storage, Storage):
            raise NotPlain("a tensor that is read from something else than values")
        shape, stride = _sides(shape), _sides(stride)
        if len(shape) != len(stride) or not _is_count(offset):
            raise ValueError("its list of tensors is damaged")
        if (
            math.prod(shape)
            and offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) >= storage.count
        ):
            raise ValueError(
                f"a tensor of {' x '.join(map(str, shape))} reaches past the {storage.count} values it has"
            )
        plan = TensorPlan(storage, shape)
        self.found.tensors.append(plan)
        if len(self.found.tensors) > MOST_TENSORS:
            raise ValueError(f"holds more than {MOST_TENSORS} tensors")
        return plan


MAGIC = 0x1950A86A20F9469CFC6C  # PyTorch's older format begins with it
LARGE = Name("a number of more than 62 bits")

_DAMAGE = (IndexError, KeyError, TypeError, AttributeError)  # a stack, a memo or a value that does not fit
_ATOMS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _named(name: str) -> Name:
    """A class or function that may be named; what may be done with it is another question."""
    module, _, leaf = name.partition(" ")
    if leaf in _KINDS and module == "torch._utils":
        raise ValueError(f"holds {_KINDS[leaf]}; save plain tensors of float32 or float16 instead")
    allowed = name in (_ORDERED, "torch Size", "torch device", "_codecs encode", *_REBUILD, *_WRAP)
    if not allowed and not (module == "torch" and leaf.endswith("Storage")) and not _DTYPE.fullmatch(name):
        raise NotPlain(_spelt(name))
    return Name(name)


def _spelt(name: str) -> str:
    """A name out of a file, fit to be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in name.replace(" ", ".")[:80])


def _pairs(keys: list[Any], values: list[Any]) -> dict[Hashable, Any]:
    """A dictionary whose keys are words or numbers: others can take for ever to compare."""
    if not all(isinstance(key, str | int | float | None) for key in keys):
        raise NotPlain("a dictionary whose keys are not words")
    return dict(zip(keys, values, strict=True))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_NUMBER


def _sides(value: Any) -> tuple[int, ...]:
    """A shape or strides."""
    if not isinstance(value, tuple) or len(value) > _MOST_SIDES or not all(_is_count(side) for side in value):
        raise ValueError("a tensor has a shape that cannot be")
    return value


def _check_structure(root: Any) -> None:
    """Refuse containers that hold themselves, or are nested deeper than any checkpoint.

    Each is looked at once a level, so that shared ones do not multiply.
    """
    level = {id(root): root}
    for _ in range(MOST_NESTED + 1):
        inner: dict[int, Any] = {}
        for value in level.values():
            children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            inner |= {id(child): child for child in children if isinstance(child, dict | list | tuple)}
        if not inner:
            return
        level = inner
    raise ValueError(f"its containers hold themselves, or lie more than {MOST_NESTED} deep in one another")
