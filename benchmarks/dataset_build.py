"""`sg3 dataset` of large JPEGs, with and without draft decoding; listing of a large zip.

    python -m benchmarks.dataset_build --images 24 --entries 200000

CPU seconds in one process, so that other programs count little: a build on two cores takes half.
The images are compared first: they may differ by the filters alone.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks._results import write_results
from recipes.arguments import argument_parser
from sg3.data import transforms
from sg3.data.prepare import prepare_dataset
from sg3.data.source import ImageSource

SIZE = (256, 256)
LARGEST_DIFFERENCE = 2.0  # mean, of 255


def photograph(seed: int, width: int = 4000, height: int = 3000) -> bytes:
    """Return a synthetic JPEG: smooth colors with some grain."""
    random = np.random.RandomState(seed)
    coarse = Image.fromarray(random.randint(0, 256, [24, 32, 3], np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    pixels = pixels + random.randint(-6, 7, pixels.shape, np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=92)
    return buffer.getvalue()


def build(source: Path, dest: Path) -> tuple[float, np.ndarray]:
    """Return CPU seconds of a build in this process, and its images uint8 `[N, H, W, 3]`."""
    start = time.process_time()
    kept = [item.name for item in prepare_dataset(source, dest, SIZE, "center-crop", jobs=1)]
    seconds = time.process_time() - start
    with zipfile.ZipFile(dest) as archive:
        images = [np.asarray(Image.open(io.BytesIO(archive.read(str(name))))) for name in kept]
    return seconds, np.stack(images)


def compare_builds(folder: Path, count: int) -> dict[str, float]:
    """Build the same dataset with full and with draft decoding."""
    source = folder / "photos"
    source.mkdir()
    some = [photograph(seed) for seed in range(4)]  # making them takes longer than reading them
    for i in range(count):
        (source / f"{i:04d}.jpg").write_bytes(some[i % len(some)])
    draft_s, draft = build(source, folder / "draft.zip")
    full: Callable = lambda full, transform, size: full  # noqa: E731
    with mock.patch.object(transforms, "_sufficient", full):
        full_s, exact = build(source, folder / "full.zip")
    difference = float(np.abs(draft.astype(int) - exact).mean())
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"images differ by {difference:.2f} of 255 on average")
    return {
        "images": count,
        "full_sec_per_image": full_s / count,
        "draft_sec_per_image": draft_s / count,
        "speedup": full_s / draft_s,
        "mean_difference": difference,
    }


def list_entries(folder: Path, count: int) -> dict[str, float]:
    """List a zip of `count` tiny files; CPU seconds, and memory of what is allocated."""
    path = folder / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(zipfile.ZipInfo(f"{i // 1000:05d}/img{i:08d}.png"), b"")
    start = time.process_time()
    source = ImageSource(path)
    seconds = time.process_time() - start
    source.close()
    tracemalloc.start()
    source = ImageSource(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"entries": len(source.names), "list_sec": seconds, "list_mib": peak / 2**20}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=24, help="number of images")
    parser.add_argument("--entries", type=int, default=200_000, help="files in the zip")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        results = compare_builds(Path(temporary), chosen.images)
        print(json.dumps(results), flush=True)
        results |= list_entries(Path(temporary), chosen.entries)
    print(json.dumps(results, indent=2))
    print(write_results("dataset_build", results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
