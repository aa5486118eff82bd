"""Muon: SGD with Nesterov momentum whose updates are orthogonalised.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with updates
scaled as in arXiv 2502.16982, so that learning rates of Adam carry over. `torch.optim.Muon` takes
matrices only; here a convolution `[O, I, k, k]` counts as a matrix `[O, I·k·k]`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Coefficients of the Newton–Schulz iteration, which moves singular values in (0, 1] towards 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_RMS = 0.2  # typical RMS of an update of Adam, in learning rates


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return `matrix` `[M, N]` with its singular values moved to about 0.7 … 1.2."""
    a, b, c = QUINTIC
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Optimizer of parameters with two or more dimensions; the first one counts as rows."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their `.grad`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._move(parameter, group["lr"], group["momentum"])

    def _move(self, parameter: Tensor, lr: float, momentum: float) -> None:
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        mean = state["mean"]
        mean.lerp_(parameter.grad, 1 - momentum)
        ahead = parameter.grad.lerp(mean, momentum).flatten(1)  # Nesterov
        scale = ADAM_RMS * max(ahead.shape) ** 0.5
        parameter.add_(orthogonalised(ahead).view_as(parameter), alpha=-lr * scale)
