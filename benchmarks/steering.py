"""Steps of steering per second, and what they leave in memory.

    python -m benchmarks steering                 # mini-faces, 16 cutouts, 2 threads, 150 steps
    python benchmarks/steering.py --steps 500

On a machine with a GPU also a 1024×1024 StyleGAN3-T and a ViT-B/32 with random weights at 32
cutouts. Before anything is timed, the encoder as it is used has to agree with the plain one. The
median of the steps counts where the machine is quiet, the fastest tenth where it is not; processor
time says what the work costs. Writes out/bench/steering.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

import guidance
import sg3
from guidance.encoders import load_encoder
from sg3.allocator import keep_large_blocks
from sg3.threads import CpuTimes, free_cores

PROMPT = "a smiling woman with red hair"
THREADS, CUTOUTS, WARM_UP = 2, 16, 5
TARGET, GPU_TARGET = 12.0, 15.0
TOLERANCE = 1e-5
#: What memory may grow by from the first fifth of the steps to the last, in MB.
GROWTH_MB = 20.0


def disagreement() -> float:
    """Largest difference between embeddings by the encoder as it is used and the plain one."""
    members = load_encoder("mini").members
    images = torch.rand([4, 3, 64, 64], generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = 0.0
    for member in members:
        with torch.no_grad():
            plain = torch.nn.functional.normalize(member.image_tower(images), dim=1)
            found = max(found, float((member.encode_images(images) - plain).abs().max()))
    return found


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def measure(G, clip, steps: int, cutouts: int) -> dict:
    """Seconds per step, processor seconds, and memory along the way."""
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
    """A 1024×1024 T and a ViT-B/32 of random weights, as `sg3 steer` would run them."""
    import open_clip

    from guidance.encoders.open_clip import OpenClipEncoder
    from sg3.networks import build_network

    sizes = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=1024, img_channels=3)
    G = build_network("stylegan3", sizes).eval().requires_grad_(False).cuda()
    model = open_clip.create_model("ViT-B-32", pretrained=None).cuda()
    encoder = OpenClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32")
    return measure(G, encoder, steps, cutouts=32) | {"device": torch.cuda.get_device_name()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=THREADS)
    # Also called by `python -m benchmarks`, whose arguments are names of benchmarks.
    args, _ = parser.parse_known_args()
    difference = disagreement()
    if difference > TOLERANCE:
        raise SystemExit(f"encoders disagree by {difference:.1e}: nothing is timed")
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
    path = Path("out/bench/steering.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cores": os.cpu_count(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
