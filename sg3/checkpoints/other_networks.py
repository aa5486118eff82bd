"""Names of networks that people mistake for StyleGAN2 and StyleGAN3, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from sg3.checkpoints.inert import Record, as_record
from sg3.checkpoints.pickle_machine import Stub
from sg3.errors import brief, printable


def name_other(record: Record) -> str | None:
    """Return what a network of a known other architecture is, else None."""
    full = _full_names(record)
    names = {name.rpartition(".")[2] for name in full}
    children = set(record.children)
    if "Embedding" in names or "rand_embedding" in _mapping_arguments(record):
        return "a StyleGAN-XL network: its mapping embeds classes"
    if any("R3GAN" in name for name in full) or "GenerativeBasis" in names:
        return "an R3GAN network"
    if "TriPlaneGenerator" in names or {"backbone", "renderer"} <= children:
        return "an EG3D network (views of 3D scenes)"
    if any(name.lower().startswith("fastgan") for name in names):
        return "a Projected GAN network with FastGAN's generator"
    return None


def name_architecture(part: str, record: Record) -> str:
    """Return a sentence that says what an unsupported network is, as far as can be told."""
    if (other := name_other(record)) is not None:
        return f"{other}, which is not supported"
    return (
        f"{part} is a {record.class_name.rpartition('.')[2]!r} with an unknown architecture; "
        "expected StyleGAN2 or StyleGAN3"
    )


def _mapping_arguments(record: Record) -> Mapping:
    given = record.part("_init_kwargs").get("mapping_kwargs")
    return given if isinstance(given, dict) else {}


def _full_names(record: Record, depth: int = 4) -> list[str]:
    below = [n for c in record.children.values() if depth for n in _full_names(c, depth - 1)]
    return [record.class_name, *below]


def name_content(content: Any) -> str:
    """Return what a pickle without a network `G_ema` is."""
    if (record := as_record(content)) is not None:
        name = record.class_name.rpartition(".")[2]
        return (
            f"a {name!r} pickled alone; expected a dictionary with G_ema: "
            'write it with pickle.dump({"G_ema": network}, file)'
        )
    if isinstance(content, Stub):
        return f"no network G_ema, only an object of type {content.name!r}"
    if not isinstance(content, dict):
        return f"no network G_ema, only a {type(content).__name__}"
    given = content.get("G_ema")
    if given is not None:
        found = given.name if isinstance(given, Stub) else type(given).__name__
        return f"no network G_ema: it is an object of type {found!r}"
    return f"no network G_ema, only {_names(content) or 'an empty dictionary'}"


def _names(content: dict[Any, Any]) -> str:
    return printable(", ".join(brief(name) for name in islice(content, 20))[:80])
