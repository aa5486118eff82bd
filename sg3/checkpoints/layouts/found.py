"""Which generators a file holds, and what the file is, by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sg3.checkpoints.layouts.flat import View
from sg3.checkpoints.pickle_machine import Refused

#: A tensor that every generator of a layout has, behind a prefix.
MARKERS = {
    "rosinality": r"input\.input",
    "stylegan2": r"synthesis\.b\d+\.const",
    "stylegan3": r"synthesis\.input\.freqs",
}
MARKER = re.compile(
    r"(?:(?P<prefix>.+)\.)?(?:" + "|".join(f"(?P<{k}>{v})" for k, v in MARKERS.items()) + ")"
)
#: Words in prefixes that name the averaged weights, and those as trained.
AVERAGED = {"g_ema", "ema", "gema", "params_ema", "generator_ema", "netg_ema", "g_running"}
TRAINED = {"g", "generator", "netg", "gen"}

MAX_GENERATORS = 16

#: Tensors of other architectures, as regular expressions of their names.
OTHERS = {
    r"superresolution\.|renderer\.|decoder\.net\.": "an EG3D network",
    r"mapping\.embed_proj\.|feature_network": "a StyleGAN-XL network",
    r"to_rgbs\.\d+\.iwt\.": "a SWAGAN network of rosinality's repository",
    r"progression\.\d+\.|generator\.progression": "a StyleGAN1 network",
}
#: The same for files without a generator of ours.
MODELS = {
    r"style_convs\.|stylegan_decoder": "a StyleGAN2 of BasicSR or GFPGAN",
    r"visual\.|text_model\.|logit_scale": "a CLIP model",
}


@dataclass(frozen=True)
class Found:
    """A generator in a file.

    Attributes:
        prefix: of its tensors, without the last dot; empty for a plain state dict.
        layout: a key of `MARKERS`.
        tensors: its tensors by name without the prefix.
    """

    prefix: str
    layout: str
    tensors: Mapping[str, View]

    @property
    def words(self) -> set[str]:
        """The words of the prefix in lower case."""
        return set(self.prefix.lower().split("."))


def find_generators(flat: Mapping[str, View]) -> list[Found]:
    """Return the generators among the tensors of a file."""
    found: list[Found] = []
    for name in flat:
        match = MARKER.fullmatch(name)
        if match is None or match.lastgroup is None:
            continue
        prefix = match["prefix"] or ""
        start = f"{prefix}." if prefix else ""
        layout = next(k for k in MARKERS if match[k])
        if layout == "rosinality" and f"{start}conv1.conv.weight" not in flat:
            continue
        if len(found) >= MAX_GENERATORS:
            raise Refused(f"holds more than {MAX_GENERATORS} generators (damaged or malicious)")
        own = {n.removeprefix(start): view for n, view in flat.items() if n.startswith(start)}
        found.append(Found(prefix, layout, own))
    return found


def choose(found: list[Found], part: str | None) -> tuple[Found, Found | None, list[str]]:
    """Return the averaged generator, the one as trained if there is one, and notes for the user.

    Raises Refused if a file holds several and none is called G_ema; `part` chooses one by prefix.
    """
    names = ", ".join(each.prefix or "(unnamed)" for each in found)[:200]
    if part is not None:
        named = [each for each in found if each.prefix == part]
        if not named:
            raise Refused(f"has no generator {part[:40]!r}, only {names}")
        return named[0], None, []
    averaged = [each for each in found if each.words & AVERAGED]
    trained = [each for each in found if each.words & TRAINED and each not in averaged]
    if len(averaged) == 1:
        return averaged[0], trained[0] if len(trained) == 1 else None, []
    candidates = averaged or trained or found
    if len(candidates) > 1:
        raise Refused(
            f"holds several generators: {names}; choose one with `as_`, as in "
            f"part={candidates[0].prefix}"
        )
    chosen = candidates[0]
    notes: list[str] = []
    if chosen in trained and "decoder" not in chosen.words:
        notes = [f"without averaged weights; G_ema is its {chosen.prefix!r}, as trained"]
    return chosen, None, notes


def other_architecture(flat: Mapping[str, View], known: Mapping[str, str] = OTHERS) -> str | None:
    """Return what a file is if its tensors belong to another architecture, else None."""
    for pattern, name in known.items():
        if any(re.search(rf"(?:^|\.)(?:{pattern})", each) for each in flat):
            return name
    return None


def describe(flat: Mapping[str, View], found: list[Found]) -> str:
    """Say in a few words what a file is, by its tensors."""
    first = {name.partition(".")[0] for name in flat}
    if found and any("decoder" in each.words for each in found):
        return "a pSp or e4e encoder's checkpoint"
    if found:
        layout = {each.layout for each in found}
        maker = "rosinality StyleGAN2" if layout == {"rosinality"} else "StyleGAN state_dict"
        if layout == {"rosinality"}:
            training = {"d", "g_optim", "d_optim"} & first
            return f"a {maker} {'training checkpoint' if training else 'generator'}"
        return f"a {maker}" if found[0].prefix == "" else "a file of StyleGAN generators"
    return _without_generator(flat)


def _without_generator(flat: Mapping[str, View]) -> str:
    names = ", ".join(list(flat)[:3])[:120]
    if (model := other_architecture(flat, MODELS)) is not None:
        return f"{model}, which is not supported"
    if any(name.endswith("b4.out.weight") or "final_linear.0." in name for name in flat):
        return "a StyleGAN discriminator without a generator"
    if any(re.search(r"(?:^|\.)(?:b4\.const|input\.freqs)$", name) for name in flat):
        return "a synthesis network without its mapping network"
    if any(re.search(r"(?:^|\.)(?:latent|latents|ws?)$", name) for name in flat):
        return "latents, not a network; latents are given as `latent`"
    if any(name.startswith(("encoder.", "state_dict.encoder.")) for name in flat):
        return "an encoder without a generator"
    more = ", …" if len(flat) > 3 else ""
    return f"tensors {names}{more}, no StyleGAN generator" if flat else "no tensors"
