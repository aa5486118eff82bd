"""What an adaptation leaves on disk: pictures, video, curves, network, delta, state."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from guidance.render import renderer
from nada.adapt import Adaptation, Step
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
from sg3.training.progress_page import read_jsonl

STATE, STATS = "state.safetensors", "stats.jsonl"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
SHEET_COLUMNS = 8
#: The walk goes round so many latents, with so many frames between two of them: fewer where all
#: frames together would exceed the pixels that a processor renders in seconds.
WALK_LATENTS, WALK_FRAMES, WALK_BUDGET_PX = 6, 24, 2**21
VIDEO_SIZE_PX, VIDEO_FPS, VIDEO_LENGTH_S = 256, 24, 5


@dataclass(frozen=True)
class RecordConfig:
    """What `Recording` writes. Raises ValueError for values outside the stated ranges."""

    #: Steps between two grids, each with the state.
    image_every: int = 50
    video: bool = True
    #: Of the delta: singular values kept per tensor (None: all), and how numbers are stored.
    rank: int | None = None
    delta_dtype: str = "fp16"

    def __post_init__(self):
        for name in ("image_every", "rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")
        if self.delta_dtype not in DTYPES:
            raise ValueError(
                f"delta_dtype: got {self.delta_dtype!r}, expected {' or '.join(DTYPES)}"
            )


@dataclass(frozen=True)
class Outcome:
    """Of the network that was written. `reason` is None if the adaptation has not ended."""

    index: int
    reason: str | None
    check: Check
    spectrum: SpectralChange
    #: Of the squared change of the weights, how much rank and storage of the delta keep.
    kept: float


class Recording:
    """Takes the `Step`s of an adaptation as they come and writes files from them.

    recording = Recording(adaptation, outdir, arguments_of(adaptation))
    for step in adaptation:
        recording.add(step)
    outcome = recording.finish()        # also after fewer steps than planned
    recording.paths                     # what was written

    `arguments` go into the state, `meta` (JSON-able) into the network and the delta. Raises
    UserError for a folder that cannot be written to, and for a loss that is no number.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        outdir: str | os.PathLike,
        arguments: dict,
        config: RecordConfig | None = None,
        meta: dict | None = None,
    ):
        self.adaptation, self.arguments, self.meta = adaptation, arguments, dict(meta or {})
        self.config = config or RecordConfig()
        self.outdir, self._paths, self._start = prepare_folder(outdir), {}, time.perf_counter()
        # Of steps after the state from which this goes on there may be lines: they come again.
        known = read_jsonl(self.outdir / STATS)
        if not all("step" in record for record in known):
            raise UserError(f"outdir: {self.outdir} holds another run; choose another folder")
        self.records = [record for record in known if record["step"] <= adaptation.index]
        lines = [json.dumps(record) + "\n" for record in self.records]
        write_text(self._path(STATS), "".join(lines))
        save_png(self._path("before.png"), image_grid(self._before))

    @property
    def paths(self) -> list[Path]:
        """What was written, in order."""
        return list(self._paths)

    def _path(self, name: str) -> Path:
        path = self.outdir / name
        self._paths[path] = None
        return path

    @cached_property
    def _before(self) -> torch.Tensor:
        return as_rgb(self.adaptation.pictures(self.adaptation.source))

    def add(self, step: Step) -> None:
        """Take the next step."""
        if step.index and not math.isfinite(step.loss):
            raise UserError(f"lr: at step {step.index} the loss is {step.loss}; try a lower one")
        record = {"step": step.index, "loss": step.loss if step.index else None}
        record |= {"losses": step.losses, "layers": step.layers}
        if step.check is not None:
            check = step.check
            record |= {"agreement": check.agreement, "length": check.length}
            record["diversity"] = check.diversity
        record["seconds"] = round(time.perf_counter() - self._start, 3)
        self.records.append(record)
        with open(self.outdir / STATS, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if step.index and step.index % self.config.image_every == 0 and step.reason is None:
            self._save_grid(as_rgb(step.images))
            self._save_state()

    def _save_grid(self, images: torch.Tensor) -> None:
        path = self._path(f"step{self.adaptation.index:04d}.png")
        save_png(path, image_grid(images))

    def _save_state(self) -> None:
        write_state(self._path(STATE), self.adaptation, self.arguments)
        source, target = self.adaptation.texts
        rule = self.adaptation.config.stop
        title = f"{source} → {target}" if target else "pictures"
        curves = draw_curves(self.records, title, rule.diversity if rule else None)
        write_text(self._path("curves.svg"), curves)

    def finish(self) -> Outcome:
        """Complete the files for the steps so far."""
        adaptation, config = self.adaptation, self.config
        self._save_state()
        meta = {**self.meta, "steps": adaptation.index}
        delta = difference(
            adaptation.source, adaptation.G_ema, config.rank, DTYPES[config.delta_dtype], meta
        )
        save_delta(delta, self._path("delta.safetensors"))
        # What is shown and measured is what is stored, rounding and all.
        adapted = apply_deltas(adaptation.source, [(delta, 1.0)])
        save(Networks(G_ema=adapted, meta=meta), self._path("adapted.safetensors"))
        after = as_rgb(adaptation.pictures(adapted))
        self._save_grid(after)
        save_png(self._path("sheet.png"), self._sheet(after))
        if config.video:
            self._save_video(adapted)
        watch = copy.copy(adaptation.watch)
        watch.checks = []
        check = watch.measure(adaptation.index, after)
        spectrum = spectral_change(self._before, after)
        kept = kept_fraction(delta, adaptation.source, adaptation.G_ema)
        return Outcome(adaptation.index, adaptation.reason, check, spectrum, kept)

    def _sheet(self, after: torch.Tensor) -> np.ndarray:
        """Rows of sources above rows of what became of them."""
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

    def _save_video(self, adapted: torch.nn.Module) -> None:
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
    """A closed walk `[F, num_ws, w_dim]` around the first of `ws` `[N, num_ws, w_dim]`.

    It rests a little at each. F grows with what pictures of `height` × `width` pixels allow.
    """
    ws = ws[:WALK_LATENTS]
    affordable = WALK_BUDGET_PX // (len(ws) * height * width)
    frames = min(max(affordable, 4), WALK_FRAMES)
    share = 0.5 - 0.5 * torch.cos(math.pi * torch.arange(frames) / frames)
    share = share.to(ws)[None, :, None, None]
    return torch.lerp(ws[:, None], ws.roll(-1, dims=0)[:, None], share).flatten(0, 1)
