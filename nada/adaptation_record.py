"""Files of an adaptation: images, video, curves, network, delta, state."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guidance.generator import generator_of
from guidance.render import renderer
from nada.adaptation import Adaptation, AdaptStep
from nada.config import RecordConfig
from nada.curves import draw_curves
from nada.spectrum import SpectralChange, spectral_change
from nada.state import write_state
from nada.stop_rule import Check
from sg3.checkpoints import Networks, save
from sg3.checkpoints.delta import apply_deltas, difference, kept_fraction, save_delta
from sg3.errors import UserError
from sg3.files import prepare_folder, write_text
from sg3.media import VideoWriter, contact_sheet, image_grid, save_png, to_uint8
from sg3.media.images import as_rgb
from sg3.networks.generator import MappedGenerator
from sg3.training.progress_page import read_jsonl

STATE, STATS = "state.safetensors", "stats.jsonl"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
SHEET_COLUMNS = 8
#: The interpolation visits this many latents with this many frames between two of them, or fewer
#: frames if all together would exceed the pixels that a CPU renders in seconds.
WALK_LATENTS, WALK_FRAMES, WALK_BUDGET_PX = 6, 24, 2**21
VIDEO_SIZE_PX, VIDEO_FPS, VIDEO_LENGTH_S = 256, 24, 5


@dataclass(frozen=True)
class Outcome:
    """Result of an adaptation, measured on the network as it was written.

    Attributes:
        index: Number of steps made.
        reason: Why it ended; None if it was interrupted.
        check: Metrics of the fixed latents.
        spectrum: Growth of fine detail.
        kept: Fraction of the squared weight change that the delta keeps after rank reduction and
            rounding.
    """

    index: int
    reason: str | None
    check: Check
    spectrum: SpectralChange
    kept: float


class AdaptationRecord:
    """Writes the files of an adaptation as its steps are made::

        record = AdaptationRecord(adaptation, outdir, arguments_of(adaptation))
        for step in adaptation:
            record.add(step)
        outcome = record.finish()  # also after an interruption
        record.paths  # files written

    Args:
        adaptation: The adaptation, new or resumed.
        outdir: Folder to write to.
        arguments: Stored in the state, see `nada.state.arguments_of`.
        config: What to write.
        meta: JSON-able metadata of the network and the delta.

    Raises UserError if the folder is not writable or holds another run.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        outdir: str | os.PathLike,
        arguments: dict[str, Any],
        config: RecordConfig | None = None,
        meta: Mapping[str, Any] | None = None,
    ):
        self.adaptation, self.arguments, self.meta = adaptation, arguments, dict(meta or {})
        self.config = config or RecordConfig()
        self.outdir, self._start = prepare_folder(outdir), time.perf_counter()
        self._paths: dict[Path, None] = {}  # an ordered set
        # After a crash there may be lines of steps later than the state; these are made again.
        known = read_jsonl(self.outdir / STATS)
        if not all("step" in line for line in known):
            raise UserError(f"outdir: {self.outdir} holds another run; choose another folder")
        self.records = [line for line in known if line["step"] <= adaptation.index]
        write_text(self._path(STATS), "".join(json.dumps(line) + "\n" for line in self.records))
        save_png(self._path("before.png"), image_grid(self._before))

    @property
    def paths(self) -> list[Path]:
        """Files written so far, in order."""
        return list(self._paths)

    def _path(self, name: str) -> Path:
        path = self.outdir / name
        self._paths[path] = None
        return path

    @cached_property
    def _before(self) -> torch.Tensor:
        return as_rgb(self.adaptation.render(self.adaptation.source))

    def add(self, step: AdaptStep) -> None:
        """Record the next step. Raises UserError if its loss is not finite."""
        if step.index and not math.isfinite(step.loss):
            raise UserError(
                f"lr: the loss is {step.loss} at step {step.index}; try a lower learning rate"
            )
        line: dict[str, Any] = {"step": step.index, "loss": step.loss if step.index else None}
        line |= {"losses": step.losses, "layers": step.layers}
        if step.check is not None:
            check = step.check
            line |= {"agreement": check.agreement, "length": check.length}
            line["diversity"] = check.diversity
        line["seconds"] = round(time.perf_counter() - self._start, 3)
        self.records.append(line)
        with open(self.outdir / STATS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        # The last step is left to `finish`, which writes the same files.
        if step.index and step.index % self.config.image_every == 0 and step.reason is None:
            self._save_grid(as_rgb(step.image))
            self._save_state()

    def _save_grid(self, images: torch.Tensor) -> None:
        path = self._path(f"step{self.adaptation.index:04d}.png")
        save_png(path, image_grid(images))

    def _save_state(self) -> None:
        write_state(self._path(STATE), self.adaptation, self.arguments)
        source, target = self.adaptation.texts
        rule = self.adaptation.config.stop
        title = f"{source} → {target}" if target else "target images"
        curves = draw_curves(self.records, title, rule.diversity if rule else None)
        write_text(self._path("curves.svg"), curves)

    def finish(self) -> Outcome:
        """Write the remaining files for the steps made so far."""
        adaptation, config = self.adaptation, self.config
        self._save_state()
        meta = {**self.meta, "steps": adaptation.index}
        delta = difference(
            adaptation.source, adaptation.G_ema, config.rank, DTYPES[config.delta_dtype], meta
        )
        save_delta(delta, self._path("delta.safetensors"))
        # Everything shown and measured is source + delta as stored, including rounding.
        adapted = generator_of(apply_deltas(adaptation.source, [(delta, 1.0)]))
        save(Networks(G_ema=adapted, meta=meta), self._path("adapted.safetensors"))
        after = as_rgb(adaptation.render(adapted))
        self._save_grid(after)
        save_png(self._path("sheet.png"), self._sheet(after))
        if config.video:
            self._save_video(adapted)
        # A copy with its own list, since this check is not one of the stop rule's.
        monitor = copy.copy(adaptation.monitor)
        monitor.checks = []
        check = monitor.measure(adaptation.index, after)
        spectrum = spectral_change(self._before, after)
        kept = kept_fraction(delta, adaptation.source, adaptation.G_ema)
        return Outcome(adaptation.index, adaptation.reason, check, spectrum, kept)

    def _sheet(self, after: torch.Tensor) -> np.ndarray:
        """Rows of source images, each above a row of their adaptations."""
        pairs = zip(self._before.split(SHEET_COLUMNS), after.split(SHEET_COLUMNS), strict=True)
        source, target = self.adaptation.texts
        images, captions = [], []
        for pair in pairs:
            for part, text in zip(pair, (source or "before", target or "after"), strict=True):
                missing = SHEET_COLUMNS - len(part) if len(after) > SHEET_COLUMNS else 0
                blank = part.new_ones([missing, *part.shape[1:]])
                images.append(torch.cat([part, blank]))
                captions += [text] + [""] * (len(part) + missing - 1)
        columns = min(len(after), SHEET_COLUMNS)
        return contact_sheet(torch.cat(images), captions, columns)

    def _save_video(self, adapted: MappedGenerator) -> None:
        adaptation = self.adaptation
        ws = walk(adaptation.fixed_ws, *self._before.shape[2:])
        fps = min(VIDEO_FPS, math.ceil(len(ws) / VIDEO_LENGTH_S))
        render = [renderer(G, adaptation.config.force_fp32) for G in (adaptation.source, adapted)]
        with VideoWriter(self._path("interpolation.mp4"), fps=fps) as video:
            for part in ws.split(8):
                for pair in zip(*(to_uint8(as_rgb(r(part))) for r in render), strict=True):
                    frame = np.concatenate(pair, axis=1)
                    factor = max(1, -(-VIDEO_SIZE_PX // frame.shape[0]))
                    video.add(frame.repeat(factor, axis=0).repeat(factor, axis=1))


def walk(ws: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Interpolate a closed path through the first of `ws` `[N, num_ws, w_dim]`, easing in and out.

    Args:
        ws: Latents.
        height: Height of the images in pixels; larger images get fewer frames.
        width: Their width.

    Returns:
        Latents `[F, num_ws, w_dim]`, one per frame.
    """
    ws = ws[:WALK_LATENTS]
    affordable = WALK_BUDGET_PX // (len(ws) * height * width)
    frames = min(max(affordable, 4), WALK_FRAMES)
    t = 0.5 - 0.5 * torch.cos(math.pi * torch.arange(frames) / frames)
    t = t.to(ws)[None, :, None, None]
    return torch.lerp(ws[:, None], ws.roll(-1, dims=0)[:, None], t).flatten(0, 1)
