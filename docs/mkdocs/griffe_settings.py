"""Griffe extension for the docstrings of this project.

Griffe reads source text without running it. For configuration dataclasses, whose fields are
`setting(default, "Doc.")`, it would show the call of `setting` as the default, and none of the
documentation that `sg3.settings.documented` adds at run time. This extension imports these classes
and takes both from there. It also reads sections called "Example:" as griffe reads "Examples:".
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any

import griffe


def _default(field: dataclasses.Field) -> str | None:
    """The default of a field as it is shown in a signature."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)
    return None if field.default is dataclasses.MISSING else repr(field.default)


class SettingsExtension(griffe.Extension):
    """Defaults and docstrings of classes that are decorated with `@documented`; examples."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if not any(str(d.value).split(".")[-1] == "documented" for d in cls.decorators):
            return
        found: Any = importlib.import_module(cls.module.path)
        for name in cls.path.removeprefix(cls.module.path + ".").split("."):
            found = getattr(found, name)
        for field in dataclasses.fields(found):
            member = cls.members.get(field.name)
            if isinstance(member, griffe.Attribute):
                member.value = _default(field)
                member.docstring = None  # the class lists it among its attributes
        text, known = inspect.getdoc(found) or "", cls.docstring
        style = {"parser": known.parser, "parser_options": known.parser_options} if known else {}
        cls.docstring = griffe.Docstring(text, parent=cls, **style)
