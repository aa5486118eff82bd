"""Speed of steering: steps per second, CPU time and memory.

    python -m benchmarks steering                 # mini-faces, 16 cutouts, 2 threads, 150 steps
    python -m benchmarks steering --steps 500

With a GPU, also a 1024×1024 StyleGAN3-T and a ViT-B/32 with random weights and 32 cutouts. First
checks that the folded encoder agrees with the plain one. Use the median on an idle machine, the
fastest tenth of the steps on a busy one. Writes out/bench/steering.json.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

import guidance
import sg3
from benchmarks._results import write_results
from guidance.encoders import Encoder, load_encoder
from recipes.arguments import argument_parser
from sg3.allocator import keep_large_blocks
from sg3.threads import CpuTimes, free_cores

PROMPT = "a smiling woman with red hair"
THREADS, CUTOUTS, WARM_UP = 2, 16, 5
TARGET, GPU_TARGET = 12.0, 15.0
TOLERANCE = 1e-5
#: Largest growth of memory from the first fifth of the steps to the last, in MB.
GROWTH_MB = 20.0


def disagreement() -> float:
    """Return the largest difference between embeddings of the folded encoder and the plain one."""
    members = load_encoder("mini").members
    images = torch.rand([4, 3, 64, 64], generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = 0.0
    for member in members:
        with torch.no_grad():
            plain = torch.nn.functional.normalize(member.image_tower(images), dim=1)
            found = max(found, float((member.encode_images(images) - plain).abs().max()))
    return found


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def measure(G: nn.Module, clip: str | Encoder, steps: int, cutouts: int) -> dict:
    """Return steps per second, CPU time and memory of a run."""
    cuda = next(G.parameters()).device.type == "cuda"
    run = guidance.steer(G, PROMPT, clip, steps=steps + WARM_UP, cutouts=cutouts, start="mean")
    for _ in range(WARM_UP):
        next(run)
    times, memory, before, began = [], [], CpuTimes.now(), time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        next(run)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        memory.append(torch.cuda.memory_allocated() / 2**20 if cuda else resident_mb())
    fifth = max(1, steps // 5)
    return {
        "steps": steps,
        "cutouts": cutouts,
        "threads": torch.get_num_threads(),
        "free_cores": free_cores(before),
        "steps_per_sec_median": round(1 / float(np.median(times)), 2),
        "steps_per_sec_fastest_tenth": round(1 / float(np.percentile(times, 10)), 2),
        "processor_sec_per_step": round((time.process_time() - began) / steps, 4),
        "memory_mb_first_fifth": round(float(np.mean(memory[:fifth])), 1),
        "memory_mb_last_fifth": round(float(np.mean(memory[-fifth:])), 1),
    }


def on_gpu(steps: int) -> dict:
    """Measure a 1024×1024 T and a ViT-B/32 with random weights, as `sg3 steer` runs them."""
    import open_clip

    from guidance.encoders.open_clip import OpenClipEncoder
    from sg3.networks import build_network

    sizes = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=1024, img_channels=3)
    G = build_network("stylegan3", sizes).eval().requires_grad_(False).cuda()
    model = open_clip.create_model("ViT-B-32", pretrained=None).cuda()
    encoder = OpenClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32")
    return measure(G, encoder, steps, cutouts=32) | {"device": torch.cuda.get_device_name()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=150, help="number of timed steps")
    parser.add_argument("--threads", type=int, default=THREADS, help="number of threads of torch")
    args = parser.parse_args(arguments)
    difference = disagreement()
    if difference > TOLERANCE:
        raise SystemExit(f"encoders differ by {difference:.1e}; nothing was timed")
    keep_large_blocks()
    torch.set_num_threads(args.threads)
    gc.collect()
    found = {"mini-faces": measure(sg3.load("mini-faces").G_ema, "mini", args.steps, CUTOUTS)}
    if torch.cuda.is_available():
        found["stylegan3-t-1024"] = on_gpu(min(args.steps, 100))
    for name, figures in found.items():
        target = GPU_TARGET if "device" in figures else TARGET
        grown = figures["memory_mb_last_fifth"] - figures["memory_mb_first_fifth"]
        verdict = "met" if figures["steps_per_sec_median"] >= target else "missed"
        flat = "flat" if grown <= GROWTH_MB else f"grows by {grown:.0f} MB"
        print(f"{name}: {json.dumps(figures)}")
        print(f"  target {target:g} steps/s: {verdict}; memory: {flat}")
    print(write_results("steering", {"cores": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
