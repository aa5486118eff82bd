"""Griffe extension for configuration dataclasses whose fields are `setting(default, "Doc.")`.

Griffe reads source text without running it, so it would show the call of `setting` as the default
and none of the documentation that `sg3.settings.documented` adds at run time. This extension
imports these classes and takes both from there.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import griffe


def _default(field: dataclasses.Field) -> str | None:
    """The default of a field as it is shown in a signature."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)
    return None if field.default is dataclasses.MISSING else repr(field.default)


class SettingsExtension(griffe.Extension):
    """Defaults and docstrings of classes that are decorated with `@documented`."""

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
        cls.docstring = griffe.Docstring(inspect.getdoc(found) or "", parent=cls)
