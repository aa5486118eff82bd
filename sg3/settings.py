"""Fields of configuration dataclasses: default, range and documentation in one place.

A configuration lists each of its fields once::

    @documented
    @dataclass(frozen=True)
    class Config:
        \"\"\"Settings of a run.\"\"\"

        batch: int = setting(32, "Images per step.", min=1)

        def __post_init__(self):
            check_settings(self)

`documented` writes the fields into the docstring, so that `help(Config)` shows them;
`check_settings` enforces the ranges; `sg3.cli.options.config_option` makes the command-line option
with the same default and text. Importing this module does not import PyTorch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from sg3.errors import UserError, brief

#: Label of a conditional network: index of a class, or all numbers of the label.
ClassLabel = int | tuple[float, ...]

#: Characters of a text or path.
MAX_TEXT = 2000
#: Largest number where nothing else is said.
LARGEST = 1e9
#: Largest numbers by field or option: far above any use, and below what takes the memory or the
#: days of a machine before anything is seen. A number that is wrong by mistake is refused at once.
MAXIMA = {
    "auto_k": 64,
    "batch": 2**16,
    "batch_gpu": 2**16,
    "candidates": 100_000,
    "cbase": 2**24,
    "centres": 100_000,
    "classes": 2**20,
    "cmax": 2**16,
    "columns": 1000,
    "cutouts": 1024,
    "d_reg_interval": 10**6,
    "dcbase": 2**24,
    "dcmax": 2**16,
    "dissolve": 100_000,
    "fps": 1000,
    "frames": 100_000,
    "freeze_g": 64,
    "freezed": 64,
    "generations": 1000,
    "gpus": 1024,
    "images": 100_000,
    "jobs": 1024,
    "map_depth": 64,
    "margin_size": 1024,
    "mbstd_group": 2**16,
    "num": 10**7,
    "num_keyframes": 10_000,
    "num_layers": 64,
    "rank": 2**16,
    "steps": 10**6,
    "threads": 1024,
    "tune": 10**6,
    "variants": 256,
    "views": 1024,
    "w_dim": 2**16,
    "w_frames": 100_000,
    "workers": 256,
    "z_dim": 2**16,
}

T = TypeVar("T")
C = TypeVar("C", bound=type)
_MISSING = dataclasses.MISSING
_LINE = 96  # characters per line of generated docstrings


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known about a field besides its type and default.

    Attributes:
        doc: one or two sentences, used in `help()` and `--help`.
        min: smallest allowed value.
        max: largest allowed value.
        above: values must be greater than this.
        below: values must be less than this.
        choices: allowed values.
        unset: what happens while the value is None, for `help()` and `--help`.
    """

    doc: str = ""
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    unset: str | None = None

    @property
    def bounded(self) -> bool:
        """Whether only numbers within a range are allowed."""
        return any(limit is not None for limit in (self.min, self.max, self.above, self.below))

    @property
    def expected(self) -> str:
        """The allowed values in words: `"at least 1"`, `"0 to 1"`, `"a or b"`; "" if any are."""
        if self.choices is not None:
            *first, last = map(str, self.choices)
            return f"{', '.join(first)} or {last}" if first else last
        if self.min is not None and self.max is not None:
            return f"{self.min:.10g} to {self.max:.10g}"
        words = {"at least": self.min, "above": self.above, "at most": self.max}
        words["below"] = self.below
        found = [f"{word} {limit:.10g}" for word, limit in words.items() if limit is not None]
        return " and ".join(found)


def setting(
    default: Any = _MISSING,
    doc: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] | None = None,
    unset: str | None = None,
) -> Any:
    """Declare a dataclass field with its default, documentation and allowed values.

    `factory` makes the default where it is mutable or another configuration; the other arguments
    are those of `Setting`.
    """
    allowed = None if choices is None else tuple(choices)
    about = Setting(doc, min, max, above, below, allowed, unset)
    metadata = {"setting": about}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def about(field: dataclasses.Field) -> Setting:
    """Return the `Setting` of a field; an empty one if it was declared without `setting`."""
    return field.metadata.get("setting", Setting())


def type_name(field: dataclasses.Field) -> str:
    """Return the name of a field's type without `| None`: `"int"` for `int | None`."""
    # A string where the module postpones annotations (PEP 563), else a type or a union.
    name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", None)
    return str(name or field.type).removesuffix(" | None")


def documented(cls: C) -> C:
    """Class decorator: append all fields with their documentation to the class's docstring.

    An unknown keyword raises TypeError, naming the nearest field.
    """
    lines = [inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:"]
    for field in dataclasses.fields(cls):
        known = about(field)
        notes = [known.expected] if known.expected else []
        if field.default is None and known.unset:
            notes.append(f"None: {known.unset}")
        elif field.default is not _MISSING:
            notes.append(f"default {field.default!r}")
        remark = f" ({'; '.join(notes)})" if notes else ""
        text = f"{field.name}: {known.doc}{remark}"
        lines += textwrap.wrap(text, _LINE, initial_indent=" " * 4, subsequent_indent=" " * 8)
    cls.__doc__ = "\n".join(lines) + "\n"
    _suggest_names(cls)
    return cls


def _suggest_names(cls: type) -> None:
    """Wrap the constructor: an unknown keyword raises TypeError with the nearest name."""
    construct: Callable[..., None] = cls.__init__  # type: ignore[misc]
    names = [field.name for field in dataclasses.fields(cls) if field.init]

    @functools.wraps(construct)  # keeps the signature for `inspect` and `help`
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                title = type(self).__name__
                raise TypeError(f"{title}: unknown setting {name!r}; {_nearest(name, names)}")
        construct(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[misc]


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"


def check_settings(config: Any) -> None:
    """Raise ValueError for the first field of a dataclass that is outside its allowed values.

    None passes where it is the default or declared. Fields declared as `int` or `float` must be
    finite numbers, and whole ones for `int`; texts must be short (`check_value`).
    """
    for field in dataclasses.fields(config):
        value, known = getattr(config, field.name), about(field)
        if value is None and (field.default is None or str(field.type).endswith("| None")):
            continue
        if known.choices is not None and value not in known.choices:
            raise UserError(f"{field.name}: got {value!r}, expected {known.expected}")
        check_value(field.name, value, known)
        if not isinstance(value, numbers.Real):
            if known.bounded or type_name(field) in ("int", "float"):
                raise UserError(f"{field.name}: got {value!r}, expected a number")
        elif type_name(field) == "int" and value % 1:
            raise UserError(f"{field.name}: got {value}, expected a whole number")


def check_value(name: str, value: Any, known: Setting | None = None, shown: str = "") -> None:
    """Raise ValueError for a number out of range, or not finite, and for a text that is too long.

    Args:
        name: of a field or option, which chooses the maximum (`MAXIMA`).
        value: anything; of lists and tuples, all items are checked.
        known: its range.
        shown: its name in messages; default: `name`.
    """
    shown = shown or name
    if isinstance(value, (list, tuple)):
        for item in value:
            check_value(name, item, known, shown)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise UserError(f"{shown}: got {len(value)} characters, expected at most {MAX_TEXT}")
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not isinstance(value, numbers.Integral) and not math.isfinite(value):
            raise UserError(f"{shown}: got {value}, expected a finite number")
        if known is not None and not _within(value, known):
            raise UserError(f"{shown}: got {brief(value)}, expected {known.expected}")
        largest = maximum(name) if known is None or known.max is None else known.max
        if not -largest <= value <= largest:  # type: ignore[operator]  # any real number
            sign = value > 0  # type: ignore[operator]
            bound = f"at most {largest:.10g}" if sign else f"at least {-largest:.10g}"
            raise UserError(f"{shown}: got {brief(value)}, expected {bound}")


def maximum(name: str) -> float:
    """Return the largest value of a number without a range of its own."""
    return MAXIMA.get(name, LARGEST)


def _within(value: Any, known: Setting) -> bool:
    return (
        (known.min is None or value >= known.min)
        and (known.max is None or value <= known.max)
        and (known.above is None or value > known.above)
        and (known.below is None or value < known.below)
    )


def replace_settings(config: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a configuration with `changes`.

    Raises ValueError for a name that does not exist, naming the nearest one.
    """
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in changes:
        if name not in names:
            hint = _nearest(name, names)
            raise UserError(f"{name}: unknown setting of {type(config).__name__}; {hint}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
