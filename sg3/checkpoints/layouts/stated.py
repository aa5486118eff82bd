"""What the user states about a network file: `--as stylegan3-t,resolution=256`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sg3.checkpoints.official_kwargs import GENERATOR, GENERATOR_ORDER, MAPPING
from sg3.errors import UserError

#: Name of a layout → kind of the network, and arguments that the name states.
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "stylegan2": ("stylegan2", {}),
    "stylegan3": ("stylegan3", {}),
    "stylegan3-t": ("stylegan3", {"conv_kernel": 3, "use_radial_filters": False}),
    "stylegan3-r": ("stylegan3", {"conv_kernel": 1, "use_radial_filters": True}),
}
SHORT = {"resolution": "img_resolution", "channels": "img_channels"}
WORDS = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Stated:
    """Arguments that a user gave for a file.

    Attributes:
        kind: kind of the network; None: as the file says.
        kwargs: constructor arguments of the generator, those of the mapping in `mapping_kwargs`.
        part: name of the generator, in files that hold several.
    """

    kind: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> Stated:
        """Parse `KIND,NAME=VALUE,…`; the kind and all values are optional.

        Raises ValueError for unknown kinds, names and values.
        """
        kind: str | None = None
        part: str | None = None
        given: dict[str, Any] = {}
        kwargs: dict[str, Any] = {}
        for word in filter(None, (text or "").split(",")):
            name, equals, value = (each.strip() for each in word.partition("="))
            if not equals:
                if name not in NAMES or kind is not None:
                    raise UserError(f"as_: got {name!r}, expected one of {', '.join(NAMES)}")
                kind, given = NAMES[name]
            elif name == "part":
                part = value
            else:
                kwargs[SHORT.get(name, name)] = _value(name, value)
        return cls(kind, _nested(given | kwargs, kind), part)

    def __bool__(self) -> bool:
        return self != Stated()


def _nested(kwargs: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """Move arguments of the mapping network into `mapping_kwargs`; refuse unknown names."""
    kinds = [kind] if kind else ["stylegan3", "stylegan2"]
    plain = {name for k in kinds for name in GENERATOR[k]} | set(GENERATOR_ORDER[:5])
    # Both networks of a StyleGAN3 have `num_layers`.
    mapping = {f"mapping_{name}": name for k in kinds for name in MAPPING[k]}
    mapping |= {name: name for name in mapping.values() if name not in plain}
    nested = {mapping[name]: value for name, value in kwargs.items() if name in mapping}
    found = {name: value for name, value in kwargs.items() if name in plain}
    if unknown := [name for name in kwargs if name not in mapping and name not in plain]:
        known = ", ".join(sorted({*SHORT, *plain, *mapping}))
        raise UserError(f"as_: got argument {unknown[0][:40]!r}, expected some of {known}")
    return found | ({"mapping_kwargs": nested} if nested else {})


def _value(name: str, text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if SHORT.get(name, name) == "img_resolution" and "x" in text:
        width, _, height = text.partition("x")
        if width.isdecimal() and height.isdecimal():
            return [int(height), int(width)]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    if name in ("architecture", "activation"):
        return text
    raise UserError(f"as_: got {name}={text[:40]}, expected a number")
