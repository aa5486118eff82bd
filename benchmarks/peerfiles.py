"""Network files of other tools: which load, how equal the images are, and how long it takes.

    python -m benchmarks peerfiles [--update docs/FILES.md]

Loads every file of tests/peerfiles in this process and compares with what the tool that wrote it
computes, where `FILE.io.npz` or `STEM.io.npz` beside it says so. Times are CPU seconds of the
second of two loads. `--update` replaces the table in a page, between its two marks.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import sg3
from benchmarks._results import write_results
from recipes.arguments import argument_parser
from sg3.files import write_text

FOLDER = Path("tests/peerfiles")
MARKS = ("<!-- peerfiles: begin -->", "<!-- peerfiles: end -->")
#: What a file is, by the beginning of its name.
KINDS = {
    "rosi-convert": "rosinality StyleGAN2, `{g_ema, latent_avg}` (`.pt`)",
    "rosi-bare": "rosinality StyleGAN2, a bare state_dict (`.pt`)",
    "rosi-train": "rosinality StyleGAN2, a training checkpoint (`.pt`)",
    "nadasg2": "StyleGAN-NADA's StyleGAN2 (`.pt`)",
    "editing-t-psp": "stylegan3-editing, an encoder's checkpoint (`.pt`)",
    "editing-t-state": "stylegan3-editing, a state_dict of StyleGAN3-T (`.pt`)",
    "nv-sg3repo-t-state": "`torch.save(G_ema.state_dict())` of the official StyleGAN3 (`.pt`)",
    "nv-sg3repo-t-batch": "official pickle with a transform per sample",
    "tf-sg2": "TensorFlow-era StyleGAN2 pickle",
    "human": "StyleGAN-Human's StyleGAN2, not square",
    "eps696": "eps696's StyleGAN2, not square",
    "attr": "official pickle with an attribute of an unknown type",
    "drag": "DragGAN's StyleGAN2 with `resize`",
    "xl": "StyleGAN-XL",
    "r3gan": "R3GAN",
}


def title(name: str) -> str:
    """Return what a file is, by its name."""
    return next((kind for start, kind in KINDS.items() if name.startswith(start)), name)


def expected_values(path: Path) -> dict[str, torch.Tensor] | None:
    """Return what the tool that wrote a file computes, if it is known."""
    for name in (f"{path.name}.io.npz", f"{path.stem}.io.npz"):
        if (path.parent / name).exists():
            with np.load(path.parent / name) as arrays:
                return {key: torch.as_tensor(array) for key, array in arrays.items()}
    return None


def error_of_images(G: torch.nn.Module, io: dict[str, torch.Tensor]) -> float:
    """Return the largest relative error of latents and images."""
    c = torch.zeros([len(io["z"]), G.c_dim]) if G.c_dim else None
    pairs = [
        (G.mapping(io["z"], c), io["ws1"]),
        (G.synthesis(io["ws"], noise_mode="const", force_fp32=True), io["img"]),
    ]
    if any(got.shape != wanted.shape for got, wanted in pairs):
        return float("inf")
    return max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs)


def try_file(path: Path) -> dict[str, object]:
    """Return the row of a file."""
    row: dict[str, object] = {"file": path.name, "kind": title(path.name)}
    try:
        for _ in range(2):  # the first compiles operators
            start = time.process_time()
            G = sg3.load(path).G_ema
            row["cpu_s"] = time.process_time() - start
    except ValueError as error:
        return row | {"loads": False, "message": str(error).removeprefix(f"{path}: ")}
    row["loads"] = True
    if (io := expected_values(path)) is not None:
        row["error"] = error_of_images(G, io)
    return row


def table(rows: Sequence[dict]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| file | kind | loads | largest relative error | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        loads = "yes" if row["loads"] else f"no: {row['message'][:160]}"
        error = f"{row['error']:.0e}" if "error" in row else "–"
        seconds = f"{row['cpu_s']:.2f}" if row["loads"] else "–"
        lines.append(f"| `{row['file']}` | {row['kind']} | {loads} | {error} | {seconds} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] = ()) -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="Folder of the files. Default: %(default)s."
    )
    parser.add_argument(
        "--update", type=Path, help="Page whose table is replaced; left out: only print it."
    )
    options = parser.parse_args(list(arguments))
    warnings.simplefilter("ignore")
    files = [p for p in sorted(options.folder.iterdir()) if p.suffix in (".pkl", ".pt")]
    rows = [try_file(path) for path in files]
    print(table(rows))
    write_results("peerfiles", {"rows": rows})
    if options.update:
        page = options.update.read_text(encoding="utf-8")
        new = "\n".join([MARKS[0], table(rows), MARKS[1]])
        write_text(
            options.update, re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: new, page, flags=re.S)
        )


if __name__ == "__main__":
    main(sys.argv[1:])
