"""Run by tests/sg3/distributed/test_team.py, alone and under torchrun: gradients, then weights."""

import sys

import torch

from sg3.data import open_dataset
from sg3.distributed.team import Team
from sg3.training.config import TrainConfig
from sg3.training.trainer import Trainer

SMALL = dict(
    outdir="unused", batch=8, aug="noaug", workers=0, z_dim=8, w_dim=8, num_layers=4, margin_size=4,
    cbase=64, cmax=8, mbstd_group=4, d_reg_interval=2, device="cpu",
)  # fmt: skip


def make_trainer(data: str, team: Team, **changes) -> Trainer:
    config = TrainConfig(data=data, **{**SMALL, **changes}).resolved(16, team.size)
    return Trainer(config, open_dataset(data), team)


def gradients_of_first_step(trainer: Trainer) -> dict[str, torch.Tensor]:
    """By phase and parameter; no weight moves."""
    found = {}
    run_phase = trainer._run_phase

    def one_at_a_time(phase, items):
        phase.optimizer.step = lambda: found.update(
            {
                f"{phase.name}.{name}": p.grad.clone()
                for name, p in phase.network.named_parameters()
                if p.grad is not None
            }
        )
        run_phase(phase, items)

    trainer._run_phase = one_at_a_time
    trainer.step()
    trainer.close()
    return found


def weights_after_steps(trainer: Trainer, num: int) -> dict[str, torch.Tensor]:
    for _ in range(num):
        trainer.step()
    trainer.close()
    parts = {"G": trainer.G, "D": trainer.D, "G_ema": trainer.G_ema}
    return {f"{k}.{n}": t.clone() for k, net in parts.items() for n, t in net.state_dict().items()}


def everything(data: str, team: Team, **changes) -> dict:
    return {
        "gradients": gradients_of_first_step(make_trainer(data, team, **changes)),
        "weights": weights_after_steps(make_trainer(data, team, **changes), 5),
    }


def broadcast_weights(team: Team) -> list[list]:
    """What each rank has after rank 0, alone with a transposed weight, sent it its weights."""
    layer = torch.nn.Linear(2, 3, bias=False)
    values = torch.arange(6.0).reshape(3, 2) + 10 * team.rank
    layer.weight.data = values.T.contiguous().T if team.is_main else values
    team.broadcast(layer)
    return team.gather(layer.weight.tolist())


if __name__ == "__main__":
    torch.set_num_threads(1)
    team = Team.join(torch.device("cpu"))
    result = everything(sys.argv[1], team)
    result["broadcast"] = broadcast_weights(team)
    if team.is_main:
        torch.save(result, sys.argv[2])
    team.close()
