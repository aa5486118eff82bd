"""Render a dataset in the official layout: a folder or zip of PNG files with dataset.json.

python -m recipes.minifaces.world.dataset --dest data/minifaces.zip --num 50000 --seed 0
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from guidance.encoders.mini_vocabulary import DOMAINS, STYLES
from recipes.arguments import argument_parser
from recipes.minifaces.world.renderer import render_seed


def png_bytes(seed: int, domain: str = "human", style: str = "flat", size_px: int = 64) -> bytes:
    """Render identity `seed` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(render_seed(seed, domain, style, size_px)).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def png_files(
    num: int, seed: int, domain: str, style: str, size_px: int, workers: int
) -> Iterator[bytes]:
    """Yield PNG files of the identities seed·10⁷ … seed·10⁷ + num − 1; seeds share no identity."""
    seeds = range(seed * 10**7, seed * 10**7 + num)
    draw = partial(png_bytes, domain=domain, style=style, size_px=size_px)
    if workers <= 1:
        yield from map(draw, seeds)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap(draw, seeds, chunksize=64)


def write_dataset(
    dest: str | os.PathLike[str],
    num: int,
    seed: int = 0,
    domain: str = "human",
    style: str = "flat",
    size_px: int = 64,
    workers: int = 1,
) -> None:
    """Write `num` images to a folder, or to an uncompressed zip if `dest` ends in .zip.

    `dest` appears once it is complete.

    Args:
        dest: path that does not exist yet.
        num: number of images.
        seed: datasets of different seeds share no identity.
        domain: one of `DOMAINS`.
        style: one of `STYLES`.
        size_px: width and height.
        workers: number of rendering processes.

    Raises ValueError if `dest` exists or `num` is less than 1.
    """
    dest = Path(dest)
    if dest.exists():
        raise ValueError(
            f"dest: got {dest}, expected a path that does not exist yet; remove it first"
        )
    if num < 1:
        raise ValueError(f"num: got {num}, expected at least 1")
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial_dest = dest.with_name(dest.name + ".partial")
    files = (
        (f"{i // 1000:05d}/img{i:08d}.png", data)
        for i, data in enumerate(png_files(num, seed, domain, style, size_px, workers))
    )
    labels = json.dumps({"labels": None})
    if dest.suffix == ".zip":
        with zipfile.ZipFile(partial_dest, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files:
                archive.writestr(name, data)
            archive.writestr("dataset.json", labels)
    else:
        if partial_dest.exists():
            shutil.rmtree(partial_dest)
        for name, data in files:
            path = partial_dest / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (partial_dest / "dataset.json").write_text(labels)
    partial_dest.rename(dest)


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--dest", required=True, help="new folder, or new file ending in .zip")
    parser.add_argument("--num", type=int, default=50000, help="number of images")
    parser.add_argument(
        "--seed", type=int, default=0, help="datasets of different seeds share no identity"
    )
    parser.add_argument("--domain", choices=DOMAINS, default="human", help="who is shown")
    parser.add_argument("--style", choices=STYLES, default="flat", help="how it is drawn")
    parser.add_argument("--size", type=int, default=64, help="width and height in pixels")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of rendering processes"
    )
    args = parser.parse_args()
    write_dataset(args.dest, args.num, args.seed, args.domain, args.style, args.size, args.workers)
    print(f"wrote {args.num} images to {args.dest}")


if __name__ == "__main__":
    main()
