"""Write the EMA generator of a training run in half precision, as the bundled networks are.

    python -m recipes.minifaces.generator.bundle --network RUN_FOLDER \\
        --out sg3/assets/mini-faces.safetensors
"""

from __future__ import annotations

from pathlib import Path

import sg3
from recipes.arguments import argument_parser
from recipes.minifaces.provenance import git_commit


def bundle(network: str, out: str, note: str = "") -> dict:
    """Write G_ema of `network` (a run's folder or a file) to `out`; returns its metadata."""
    nets = sg3.load(network)
    meta = {
        **{k: v for k, v in nets.meta.items() if k not in ("sha256", "path", "name", "source")},
        "name": Path(out).stem,
        "licence": "Apache-2.0",
        "commit": git_commit(short=True),
        "from": Path(network).name,
    }
    if note:
        meta["note"] = note
    sg3.save(sg3.Networks(G_ema=nets.G_ema, meta=meta), out, fp16=True)
    return meta


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--network", required=True, help="folder of a run, or network file")
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--note", default="", help="text for the metadata")
    args = parser.parse_args()
    print(bundle(args.network, args.out, args.note))


if __name__ == "__main__":
    main()
