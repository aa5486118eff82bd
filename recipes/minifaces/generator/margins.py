"""Give a StyleGAN3 wider margins: same weights, but equivariant up to the border of the image.

    python -m recipes.minifaces.generator.margins --margin-size 7 --network mini-faces \\
        --out sg3/assets/mini-faces.safetensors --deltas sg3/assets/deltas

Feature maps extend `margin_size` samples beyond the image on each side (StyleGAN3, arXiv
2106.12423, appendix on boundaries). No weight depends on it, so a network can be trained with
narrow margins, which are faster, and used with wider ones. Layers are named after their size, so
--deltas renames the tensors in deltas of the network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

import sg3
from recipes.arguments import argument_parser
from sg3.checkpoints.delta import load_delta, save_delta, weights_hash
from sg3.networks import build_network


def with_margin(G: nn.Module, margin_size: int) -> nn.Module:
    """Return a StyleGAN3 with the weights of `G` and margins of `margin_size` samples.

    Raises ValueError for another kind of network.
    """
    if G.kind != "stylegan3":
        raise ValueError(f"G: got {G.kind}, expected stylegan3; only it has margins")
    wide = build_network(G.kind, {**G.init_kwargs, "margin_size": margin_size})
    wide.load_state_dict({new: G.state_dict()[old] for old, new in names(G, wide).items()})
    return wide.eval().requires_grad_(False)


def names(a: nn.Module, b: nn.Module) -> dict[str, str]:
    """Map tensor names of `a` to those of `b`, networks that differ only in the sizes of layers."""
    return dict(zip(a.state_dict(), b.state_dict(), strict=True))


def move_delta(path: Path, before: nn.Module, after: nn.Module) -> None:
    """Rewrite the delta in `path`, made for `before`, for `after`, which has the same weights.

    Raises ValueError if the delta was made for another network.
    """
    delta, renamed = load_delta(path), names(before, after)
    if delta.source_hash != weights_hash(before):
        raise ValueError(f"{path}: made from another network, expected a delta of `before`")
    changes = {renamed[name]: change for name, change in delta.changes.items()}
    save_delta(replace(delta, changes=changes, source_hash=weights_hash(after)), path)


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--margin-size", type=int, required=True, help="new margin in samples")
    parser.add_argument("--network", default="mini-faces", help="name, file or folder of a run")
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--deltas", type=Path, help="folder of deltas to rewrite in place")
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
