"""A StyleGAN3 with wider margins: the same weights, equivariant up to the border.

    python -m recipes.minifaces.generator.margins --margin-size 7 --network mini-faces \\
        --out sg3/assets/mini-faces.safetensors --deltas sg3/assets/deltas

Feature maps reach `margin_size` samples past the picture on each side (StyleGAN3, appendix on
boundaries). No weight depends on how far, so that a network may be trained with narrow margins,
which are quick, and used with wider ones. Layers are named after their size; the changes in
deltas are renamed along.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import nn

import sg3
from sg3.checkpoints.delta import load_delta, save_delta, weights_hash
from sg3.networks import build_network


def with_margin(G: nn.Module, margin_size: int) -> nn.Module:
    """A StyleGAN3 of the weights of `G` whose layers reach `margin_size` samples past the picture.

    Raises ValueError for another kind of network, or a margin that moves cutoffs.
    """
    if G.kind != "stylegan3":
        raise ValueError(f"G: got {G.kind}, expected stylegan3; only it has margins")
    wide = build_network(G.kind, {**G.init_kwargs, "margin_size": margin_size})
    wide.load_state_dict({new: G.state_dict()[old] for old, new in names(G, wide).items()})
    return wide.eval().requires_grad_(False)


def names(a: nn.Module, b: nn.Module) -> dict[str, str]:
    """Names of the tensors of `a` → of `b`, networks that differ in their layers' sizes alone."""
    return dict(zip(a.state_dict(), b.state_dict(), strict=True))


def move_delta(path: Path, before: nn.Module, after: nn.Module) -> None:
    """Rewrite the delta in `path`, made from `before`, as one of `after`, which has its weights."""
    delta, renamed = load_delta(path), names(before, after)
    if delta.source_hash != weights_hash(before):
        raise ValueError(f"{path}: made from another network, expected one of this")
    changes = {renamed[name]: change for name, change in delta.changes.items()}
    save_delta(replace(delta, changes=changes, source_hash=weights_hash(after)), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--margin-size", type=int, required=True, help="samples on each side")
    parser.add_argument("--network", default="mini-faces")
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--deltas", type=Path, help="folder of its deltas, to rewrite in place")
    args = parser.parse_args()
    nets = sg3.load(args.network)
    before, after = nets.G_ema, with_margin(nets.G_ema, args.margin_size)
    kept = {k: v for k, v in nets.meta.items() if k not in ("sha256", "path", "name", "format")}
    margins = f"margins of {before.init_kwargs.get('margin_size', 10)} in training"
    kept["note"] = "; ".join(filter(None, (kept.get("note"), margins)))
    meta = {**kept, "name": Path(args.out).stem}
    sg3.save(sg3.Networks(G_ema=after, meta=meta), args.out, fp16=True)
    for path in sorted(args.deltas.glob("*.safetensors")) if args.deltas else ():
        move_delta(path, before, after)


if __name__ == "__main__":
    main()
