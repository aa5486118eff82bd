"""Write a data set of the world in the official layout (folder or zip of PNG plus dataset.json).

python -m recipes.minifaces.world.dataset --dest data/minifaces.zip --num 50000 --seed 0
"""

from __future__ import annotations

import argparse
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
from recipes.minifaces.world.renderer import render_seed


def png_bytes(seed: int, domain: str = "human", style: str = "flat", size_px: int = 64) -> bytes:
    """Identity `seed` as an encoded PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render_seed(seed, domain, style, size_px)).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def pictures(
    num: int, seed: int, domain: str, style: str, size_px: int, workers: int
) -> Iterator[bytes]:
    """PNG files of the identities seed * 10**7 + (0 .. num - 1): different seeds never share
    one."""
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
    """Write `num` pictures to a folder, or to a zip with stored entries if `dest` ends in .zip.

    The target appears only when it is complete. Raises ValueError if it already exists.
    """
    dest = Path(dest)
    if dest.exists():
        raise ValueError(
            f"dest: got {dest}, expected a path that does not exist yet; remove it first"
        )
    if num < 1:
        raise ValueError(f"num: got {num}, expected at least 1 picture")
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial_dest = dest.with_name(dest.name + ".partial")
    files = (
        (f"{i // 1000:05d}/img{i:08d}.png", data)
        for i, data in enumerate(pictures(num, seed, domain, style, size_px, workers))
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dest", required=True, help="new folder, or a path that ends in .zip")
    parser.add_argument("--num", type=int, default=50000)
    parser.add_argument(
        "--seed", type=int, default=0, help="pictures of different seeds share no identity"
    )
    parser.add_argument("--domain", choices=DOMAINS, default="human")
    parser.add_argument("--style", choices=STYLES, default="flat")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    write_dataset(args.dest, args.num, args.seed, args.domain, args.style, args.size, args.workers)
    print(f"wrote {args.num} pictures to {args.dest}")


if __name__ == "__main__":
    main()
