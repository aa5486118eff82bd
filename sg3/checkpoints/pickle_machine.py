"""A pickle interpreter that only builds plain data.

Python's unpickler imports and calls whatever a file names, and some of its opcodes reserve as much
memory as the file claims to need. This interpreter supports only the opcodes of official network
files. Globals resolve to a fixed table of builders or to inert stubs, byte strings are views into
the file, and the number of steps is limited by the size of the file. So time and memory stay within
a small multiple of that size, and no code of the file ever runs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sg3.errors import UserError, brief, printable

#: An opcode is one step, as is each item that a call may copy: the opcodes around a call could
#: copy one long list again and again. Official networks take about 10⁵ steps. A step can create an
#: object of 200 bytes, such as an empty set.
MAX_STEPS = 700_000
BYTES_PER_STEP = 64  # of a larger file allow one step more
STEPS_PER_VIEW = 50
#: Items of strings are not objects; this many characters count as a step.
CHARACTERS_PER_STEP = 256
#: Keys of dictionaries other than strings. Their hashes follow from their values, so that a file
#: can make all of them collide; then time is quadratic. Optimizers have hundreds.
MAX_NUMBER_KEYS = 5000
MAX_NAME = 256  # of modules and classes


class Refused(UserError):
    """The stream contains something that network files do not contain."""


class Unsupported(Refused):
    """The stream is sound, but holds something else than we can use; the message says what."""


class TooLarge(Refused):
    """The tensors take far more memory than the file."""


@dataclass(frozen=True)
class Builder:
    """The stand-in of a global; `call` gets the arguments of REDUCE or NEWOBJ."""

    name: str
    call: Callable[..., Any]


class Stateful:
    """Base class of stand-ins that accept the BUILD opcode."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """Handle BUILD with `state`."""
        raise NotImplementedError


class Stub(dict, Stateful):
    """An inert object of an unknown class: what the file says about it, without its behaviour.

    A dictionary, because many such classes are, and their items are set by the same opcodes. What
    is made from a stub is a stub again, so that a file is refused only where a value that is
    needed turns out to be one.

    Attributes:
        name: module and name of the class or function, as the file gives them.
        arguments: what it was called with.
        state: its state; None if it has none.
    """

    __slots__ = ("arguments", "name", "state")
    __hash__ = object.__hash__  # type: ignore[assignment]  # keys of dictionaries may be stubs

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        super().__init__()
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        """Keep `state`."""
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.name}>"


Find = Callable[[str, str], Builder]
Persistent = Callable[[Any], Any]
_MARK = object()


def find_in(table: Mapping[tuple[str, str], Builder]) -> Find:
    """Return a lookup of (module, name) that refuses names outside `table`."""

    def find(module: str, name: str) -> Builder:
        if (module, name) not in table:
            shown = printable(f"{module}.{name}"[:80])
            raise Refused(f"refers to {shown!r}, which network files do not use")
        return table[module, name]

    return find


def find_or_stub(table: Mapping[tuple[str, str], Builder]) -> Find:
    """Return a lookup of (module, name) where names outside `table` build inert stubs."""

    def find(module: str, name: str) -> Builder:
        known = table.get((module, name))
        if known is not None:
            return known
        shown = printable(f"{module}.{name}"[:80])
        return Builder(shown, lambda *arguments: Stub(shown, arguments))

    return find


class PickleMachine:
    """Interprets one pickle at `offset` of `data`.

    Args:
        data: the file.
        offset: start of the pickle.
        find: `find(module, name)` returns the builder of a global; None refuses all globals.
        persistent: `persistent(pid)` resolves persistent ids; None refuses them.
        max_steps: maximum number of steps; None: what the size of `data` allows.
    """

    def __init__(
        self,
        data: memoryview,
        offset: int = 0,
        find: Find | None = None,
        persistent: Persistent | None = None,
        max_steps: int | None = None,
    ):
        self.data, self.position = data, offset
        self.find, self.persistent = find or find_in({}), persistent
        self.max_steps = allowed_steps(len(data)) if max_steps is None else max_steps
        self.steps = self.number_keys = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the object of the pickle; `position` is then just after it. Raises Refused."""
        while True:
            opcode = self._take(1)[0]
            if opcode == 0x2E:  # STOP
                return self._pop()
            action = _ACTIONS.get(opcode)
            if action is None:
                raise Refused(f"unsupported pickle opcode 0x{opcode:02x}")
            self._count(1)
            action(self)

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > self.max_steps:
            raise Refused(f"more than {self.max_steps} pickle opcodes (damaged or malicious)")

    # Reading -------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        start, end = self.position, self.position + count
        # A slice beyond the end would not fail but be shorter.
        if end > len(self.data):
            raise Refused("unexpected end of file (truncated)")
        self.position = end
        return self.data[start:end]

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _text(self, count: int) -> str:
        try:
            return str(self._take(count), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise Refused("a string is not valid UTF-8") from None

    def _line(self) -> str:
        start = self.position
        # Names of modules and classes are short: do not search a large file for a line break.
        found = bytes(self.data[start : start + MAX_NAME]).find(b"\n")
        if found < 0:
            raise Refused("a name is too long or truncated")
        line = self._text(found)
        self._take(1)
        return line

    # The stack -----------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Refused("pickle stack underflow (damaged)")
        return self.stack.pop()

    def _top(self, kind: type | tuple[type, ...], purpose: str) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Refused(f"{purpose} something other than a {_names(kind)} (damaged)")
        return self.stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise Refused("pickle stack has no mark (damaged)")

    def _pop_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    # Containers ----------------------------------------------------------------------------

    def _append(self, items: list[Any]) -> None:
        target = self._top((list, Stub), "appends to")
        if isinstance(target, list):  # an unknown class of lists loses its items
            target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict, "sets items of")
        if len(items) % 2:
            raise Refused("a dictionary item has no value (damaged)")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        self._top(set, "adds to").update(map(self._key, items))

    def _frozen_set(self, items: list[Any]) -> None:
        self._push(frozenset(map(self._key, items)))

    def _key(self, key: Any) -> Any:
        if type(key) is not str:
            self.number_keys += 1
            if self.number_keys > MAX_NUMBER_KEYS:
                raise Refused(f"more than {MAX_NUMBER_KEYS} keys that are numbers (malicious)")
        return hashable(key)

    # Objects -------------------------------------------------------------------------------

    def _push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("the name of a global is not a string (damaged)")
        if len(module) + len(name) > MAX_NAME:  # below, both are copied
            raise Refused("a name is too long (damaged or malicious)")
        self._push(self.find(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._push_global(module, name)

    def _call(self) -> None:
        arguments, builder = self._pop(), self._pop()
        if not isinstance(builder, (Builder, Stub)) or not isinstance(arguments, tuple):
            raise Refused("calls an object that is not a known name (damaged or malicious)")
        if isinstance(builder, Stub) or any(isinstance(given, Stub) for given in arguments):
            self._push(Stub(builder.name, arguments))
            return
        self._count(sum(map(_copied, arguments)))
        self._push(self._sound(builder.name, builder.call, *arguments))

    def _sound(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `call` does; errors of odd arguments become Refused."""
        try:
            return call(*arguments)
        except (TypeError, AttributeError, LookupError, OverflowError) as error:
            shown = brief(str(error))
            raise Refused(f"invalid arguments of {brief(name)}: {shown}") from None

    def _new_with_keywords(self) -> None:
        keywords, arguments, builder = self._pop(), self._pop(), self._pop()
        if not isinstance(builder, Builder) or not isinstance(arguments, tuple):
            raise Refused("calls an object that is not a known name (damaged or malicious)")
        self._push(Stub(builder.name, (*arguments, keywords)))

    def _build(self) -> None:
        state = self._pop()
        target = self._top(Stateful, "sets the state of")
        self._sound(type(target).__name__, target.set_state, state)

    def _persistent_id(self) -> None:
        if self.persistent is None:
            raise Refused("contains a persistent id, which network files do not")
        self._push(self._sound("a persistent id", self.persistent, self._pop()))

    # The memo ------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        if not self.stack:
            raise Refused("nothing to store in the memo (damaged)")
        if index > 2 * len(self.memo) + MAX_STEPS // 1000:  # as keys, see MAX_NUMBER_KEYS
            raise Refused("the memo has gaps (damaged or malicious)")
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused(f"memo entry {index} was never stored (damaged)")
        self._push(self.memo[index])


def allowed_steps(size: int) -> int:
    """Return how many steps a pickle in a file of `size` bytes may take."""
    return MAX_STEPS + size // BYTES_PER_STEP


def _copied(value: Any) -> int:
    """Return how many steps a copy of an argument counts."""
    if isinstance(value, str):
        return len(value) // CHARACTERS_PER_STEP
    if isinstance(value, memoryview):  # may be a storage, with five small pickles
        return STEPS_PER_VIEW
    return len(value) if isinstance(value, (list, tuple, dict, set, frozenset)) else 1


def _names(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(k.__name__ for k in kinds)


def hashable(key: Any) -> Any:
    """Return `key` if it is plain: hashing nested tuples could exhaust the C stack."""
    parts = key if type(key) is tuple else (key,)
    if any(part is not None and type(part) not in _KEYS for part in parts):
        raise Refused(f"uses a {type(key).__name__} as a key (damaged or malicious)")
    if len(parts) > MAX_KEY:
        raise Refused("uses a long tuple as a key (damaged or malicious)")
    return key


_KEYS = (str, int, float, bool, Stub, Builder)
MAX_KEY = 64  # items of a tuple


def _protocol(machine: PickleMachine) -> None:
    if (version := machine._number("<B")) not in (2, 3, 4, 5):
        raise Refused(f"pickle protocol {version}, expected 2 to 5")


_ACTIONS: dict[int, Callable[[PickleMachine], object]] = {
    0x80: _protocol,
    0x95: lambda m: m._take(8),  # FRAME: a hint for buffered readers
    ord("("): lambda m: m._push(_MARK),
    ord("0"): lambda m: m._pop(),
    ord("1"): lambda m: m._pop_to_mark(),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    ord("J"): lambda m: m._push(m._number("<i")),
    0x8A: lambda m: m._push(int.from_bytes(m._take(m._number("<B")), "little", signed=True)),
    ord("G"): lambda m: m._push(m._number(">d")),
    0x8C: lambda m: m._push(m._text(m._number("<B"))),
    ord("X"): lambda m: m._push(m._text(m._number("<I"))),
    0x8D: lambda m: m._push(m._text(m._number("<Q"))),
    ord("C"): lambda m: m._push(m._take(m._number("<B"))),
    ord("B"): lambda m: m._push(m._take(m._number("<I"))),
    0x8E: lambda m: m._push(m._take(m._number("<Q"))),
    0x96: lambda m: m._push(m._take(m._number("<Q"))),  # BYTEARRAY8
    ord(")"): lambda m: m._push(()),
    0x85: lambda m: m._pop_tuple(1),
    0x86: lambda m: m._pop_tuple(2),
    0x87: lambda m: m._pop_tuple(3),
    ord("t"): lambda m: m._push(tuple(m._pop_to_mark())),
    ord("]"): lambda m: m._push([]),
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_to_mark()),
    ord("}"): lambda m: m._push({}),
    ord("s"): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    ord("u"): lambda m: m._set_items(m._pop_to_mark()),
    0x8F: lambda m: m._push(set()),
    0x90: lambda m: m._add_items(m._pop_to_mark()),
    0x91: lambda m: m._frozen_set(m._pop_to_mark()),
    ord("c"): lambda m: m._push_global(m._line(), m._line()),
    0x93: lambda m: m._stack_global(),
    ord("R"): lambda m: m._call(),
    0x81: lambda m: m._call(),  # NEWOBJ: class and arguments, as REDUCE
    0x92: lambda m: m._new_with_keywords(),
    ord("b"): lambda m: m._build(),
    ord("Q"): lambda m: m._persistent_id(),
    ord("q"): lambda m: m._put(m._number("<B")),
    ord("r"): lambda m: m._put(m._number("<I")),
    0x94: lambda m: m._put(len(m.memo)),
    ord("h"): lambda m: m._get(m._number("<B")),
    ord("j"): lambda m: m._get(m._number("<I")),
}
