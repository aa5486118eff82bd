"""Train a tiny network for 32 steps in float64 and print how far it is from the reference's run.

    SG3_OPS=reference python tests/support/golden_steps.py stylegan3-t 32

Runs in a process of its own, because `draws.patch_torch` changes torch globally: every random
number then follows from where it is drawn, and `torch.float32` means float64.
"""

from __future__ import annotations

import json
import sys
import tempfile

import numpy as np
import repository
import torch

STEPS = repository.GOLDEN / "steps"
sys.path.insert(0, str(STEPS))
import draws  # noqa: E402

from sg3.data import open_dataset  # noqa: E402
from sg3.training import TrainConfig  # noqa: E402
from sg3.training.loss import GANLoss  # noqa: E402
from sg3.training.trainer import Trainer  # noqa: E402


class GoldenLoss(GANLoss):
    """Says which phase draws random numbers."""

    def accumulate_gradients(self, phase, *items, **settings):
        draws.enter(phase)
        super().accumulate_gradients(phase, *items, **settings)
        draws.leave()


class GoldenTrainer(Trainer):
    """Networks begin with values that follow from the names of their tensors."""

    def _build_networks(self, *args):
        super()._build_networks(*args)
        for network in (self.G, self.D):
            draws.initial(network)
        freqs = STEPS / f"{self.config.cfg}.freqs.npz"
        if freqs.is_file():
            with np.load(freqs) as file:
                self.G.synthesis.input.freqs.copy_(torch.from_numpy(file["freqs"]))
                self.G.synthesis.input.phases.copy_(torch.from_numpy(file["phases"]))
        self.G_ema.load_state_dict(self.G.state_dict())


def largest_error(found: dict, expected: dict) -> float:
    """Largest difference of norms and probes, relative to the norms."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    errors = [0.0]
    for name, (norm, probe) in expected.items():
        scale = max(norm, 1e-12)
        errors += [abs(found[name][0] - norm) / scale, abs(found[name][1] - probe) / scale]
    return max(errors)


def run(cfg: str, last: int) -> dict[str, float]:
    """Errors after the steps that are on record, by step, up to `last`."""
    golden = json.loads((STEPS / f"{cfg}.json").read_text())
    config = TrainConfig(
        outdir=tempfile.gettempdir(), data=str(STEPS / "data.zip"), cfg=cfg, batch=4, gamma=0.1,
        cbase=256, cmax=8, map_depth=2, aug="noaug", precision="fp32", workers=0, seed=0,
        device="cpu",
    )  # fmt: skip
    dataset = open_dataset(config.data)
    draws.patch_torch()
    trainer = GoldenTrainer(config.resolved(32), dataset, loss=GoldenLoss)
    errors, draws.ACTIVE = {}, True
    for step in range(last + 1):
        if str(step) in golden:
            expected = golden[str(step)]
            networks = {"G": trainer.G, "D": trainer.D, "G_ema": trainer.G_ema}
            found = [largest_error(draws.summary(networks[n]), expected[n]) for n in networks]
            if step:
                pl_mean = float(trainer.loss.pl_mean)
                found.append(abs(pl_mean - expected["pl_mean"]) / max(expected["pl_mean"], 1e-12))
            errors[str(step)] = max(found)
        if step < last:
            trainer.step()
    trainer.close()
    return errors


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
