"""What a run tells at its start: where it begins, its data, and what a transfer leaves open."""

from __future__ import annotations

from sg3.data.base import TrainingImages
from sg3.training.config import TrainConfig
from sg3.training.trainer import Trainer
from sg3.training.transfer import fading_line


def describe_start(config: TrainConfig, trainer: Trainer, resumed: bool) -> str:
    """Return one line: from what, with how many images, and gamma."""
    text = f"{trainer.dataset.describe()}, gamma {config.gamma:g}"
    if config.gamma_end not in (None, config.gamma):
        text += f" falling to {config.gamma_end:g} in {config.gamma_kimg:g} kimg"
    if resumed:
        return f"resuming at {trainer.cur_nimg / 1000:.1f} kimg with {text}"
    where = config.start_network or "scratch"
    fits = ", ".join(report.summary() for report in trainer.transfer_reports)
    return f"starting from {where} with {text}" + (f"; {fits}" if fits else "")


def data_notes(dataset: TrainingImages) -> list[str]:
    """Return lines about the data: what is not read, and labels that are not used."""
    unused = dataset.unused_labels
    if unused is None:
        return dataset.notes
    what = f"{unused[1]} classes" if unused[0] == "classes" else "labels"
    return [*dataset.notes, f"the data has {what}, which are not used without `cond`"]


def start_notes(config: TrainConfig, trainer: Trainer) -> list[str]:
    """Return lines about what runs uncompiled, and about the network that the run starts from."""
    notes = []
    if config.compile and trainer.loss.config.pl_weight > 0:
        notes.append("compile: path lengths need second derivatives and run uncompiled")
    notes += [line for report in trainer.transfer_reports for line in report.lines()]
    if trainer.transfer_reports:
        assert config.ema_kimg is not None, "options are resolved"
        notes.append(fading_line(config.ema_kimg))
    return notes
