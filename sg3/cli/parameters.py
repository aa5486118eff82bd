"""Parameters of commands: parsed, checked before the command runs, and documented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from sg3.errors import UserError
from sg3.settings import MAX_TEXT, MAXIMA, Setting, check_value

F = TypeVar("F", bound=Callable[..., Any])


def option_name(param: click.Option) -> str:
    """Return the name of an option for messages: its first one with two dashes."""
    return next((name for name in param.opts if name.startswith("--")), param.opts[0])


class ParsedType(click.ParamType):
    """A click type around a parser that raises ValueError."""

    def __init__(self, name: str, parser: Callable[[str], Any]):
        self.name, self.parser = name, parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parser(value)
        except ValueError as error:
            message = str(error)
            if not isinstance(param, click.Option):
                self.fail(message, param, ctx)
            name = option_name(param)
            # Python's name of the argument would repeat the option's.
            known = {param.name, *(each.lstrip("-").replace("-", "_") for each in param.opts)}
            start, colon, rest = message.partition(": ")
            text = rest if colon and start in known else message
            raise click.UsageError(f"{name}: {text}", ctx) from None


class Checked(click.Parameter):
    """A parameter whose values are checked before the command runs (`sg3.settings.check_value`).

    Numbers must be finite and within the range of the option, or of the configuration field that it
    sets; texts must be short, and not empty.
    """

    field: str | None = None
    known: Setting | None = None

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        shown = option_name(self) if isinstance(self, click.Option) else self.name or ""
        self._check_texts(ctx, shown, value if isinstance(value, (list, tuple)) else [value])
        found = super().type_cast_value(ctx, value)
        try:
            check_value(self.field or self.name or "", found, self.known, shown)
        except UserError as error:
            raise click.UsageError(str(error), ctx) from None
        return found

    def _check_texts(self, ctx: click.Context, shown: str, texts: Iterable[Any]) -> None:
        """Raise UsageError for texts that are empty or long, before anything quotes them."""
        plain = not isinstance(self.type, ParsedType)  # which say what they expect
        can_be_empty = "" in (self.default, getattr(self, "flag_value", None))
        for text in texts:
            if text == "" and plain and not can_be_empty:
                rest = "" if self.required else ", or leave it out"
                raise click.UsageError(f"{shown}: got an empty text; give one{rest}", ctx)
            if (
                isinstance(text, str)
                and len(text) > MAX_TEXT
                and getattr(self.type, "name", "") != "seeds"
            ):
                got = f"got {len(text)} characters, expected at most {MAX_TEXT}"
                raise click.UsageError(f"{shown}: {got}", ctx)


class CheckedArgument(Checked, click.Argument):
    """An argument with checked values."""


def argument(*declarations: str, **kwargs: Any) -> Callable[[F], F]:
    """Like `click.argument`, with checked values."""
    return click.argument(*declarations, cls=CheckedArgument, **kwargs)


class DocumentedOption(Checked, click.Option):
    """An option whose help always shows its default, or what leaving it out does.

    Args:
        unset: what happens if the option is left out and has no default.
        expected: allowed values, shown in the help and enforced by the configuration.
        field: name of the configuration field that the option sets, for error messages.
        known: range of the field, checked before the command runs.
    """

    def __init__(
        self,
        *args: Any,
        unset: str | None = None,
        expected: str = "",
        field: str | None = None,
        known: Setting | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("show_default", True)
        super().__init__(*args, **kwargs)
        self.unset, self.expected, self.field, self.known = unset, expected, field, known

    def make_metavar(self, ctx: click.Context) -> str:
        # click calls a number "INTEGER RANGE" where the type checks its range.
        if self.metavar is None and isinstance(self.type, (click.IntRange, click.FloatRange)):
            return "INTEGER" if isinstance(self.type, click.IntRange) else "FLOAT"
        return super().make_metavar(ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if self.unset is not None and extra.get("default", '""') == '""':
            extra["default"] = self.unset
        if isinstance(self.type, click.types.BoolParamType) and "default" in extra:
            words = {"True": "on", "False": "off"}
            extra["default"] = words.get(extra["default"], extra["default"])
        if self.expected:
            extra["range"] = self.expected
        elif isinstance(self.type, (click.IntRange, click.FloatRange)):
            extra["range"] = _range_in_words(self.type)
        largest = MAXIMA.get(self.field or self.name or "")
        if largest is not None and not re.search(r"\bto\b|most|below", extra.get("range", "")):
            start = f"{extra['range']}, " if "range" in extra else ""
            extra["range"] = f"{start}at most {largest:,}".replace(",", " ").replace("  ", ", ")
        return extra


def _range_in_words(kind: click.IntRange | click.FloatRange) -> str:
    """Return the range of a click type as configurations word theirs: "at least 1"."""
    return Setting(
        min=None if kind.min_open else kind.min,
        max=None if kind.max_open else kind.max,
        above=kind.min if kind.min_open else None,
        below=kind.max if kind.max_open else None,
    ).expected


def option(*declarations: str, **kwargs: Any) -> Callable[[F], F]:
    """Like `click.option`, but shows the default; `unset="…"` says what leaving it out does."""
    return click.option(*declarations, cls=DocumentedOption, **kwargs)
