"""Which path computes an operator: the fast one of the device, if it computes the definition.

`SG3_OPS` says `auto` (the default), `reference` (the definition everywhere), `cpu` or `triton`
(only that fast path). Each fast path is compared with the definition once per process, on a
small input; one that differs or fails is left out with a warning, and `report` says why.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch

CHOICES = ("auto", "reference", "cpu", "triton")
TOLERANCE = 1e-5
#: Every operator that has fast paths, in the order of their import.
OPERATORS: list[Operator] = []


def wanted() -> str:
    """The value of SG3_OPS. Raises ValueError if it is none of `CHOICES`."""
    value = os.environ.get("SG3_OPS", "auto") or "auto"
    if value not in CHOICES:
        raise ValueError(f"SG3_OPS: got {value!r}, expected {', '.join(CHOICES)}")
    return value


def _permits(choice: str, path: str) -> bool:
    """`cpu` stands for every path whose name begins so."""
    return choice == "auto" or path.split("-")[0] == choice


class Operator:
    """An operator and the paths that can compute it.

    `paths`: name → module; "reference" is the definition. A fast path has `DEVICE_TYPE`,
    `DTYPES` and `missing()`, which returns why it cannot be had here, or nothing.
    `check(path, device)` is the largest relative error of `path` on a small input.
    """

    def __init__(
        self,
        name: str,
        paths: dict[str, ModuleType],
        check: Callable[[ModuleType, torch.device], float],
    ):
        self.name, self.paths, self._check = name, paths, check
        self._verdicts: dict[str, str] = {}
        OPERATORS.append(self)

    def path(self, device_type: str, dtype: torch.dtype) -> str:
        """Name of the path for tensors of this kind."""
        permitted = wanted()
        for name, path in self.paths.items():
            if name == "reference" or not _permits(permitted, name):
                continue
            fits = device_type == path.DEVICE_TYPE and dtype in path.DTYPES
            if fits and not path.missing() and not self.verdict(name):
                return name
        return "reference"

    def verdict(self, name: str) -> str:
        """Empty when the path agrees with the definition, else the reason; warns once."""
        if name not in self._verdicts:
            path = self.paths[name]
            try:
                error = self._check(path, torch.device(path.DEVICE_TYPE))
            except Exception as problem:  # a failed build, a missing driver: nothing a user did
                reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            else:
                reason = "" if error < TOLERANCE else f"differs from the definition by {error:.1e}"
            if reason:
                text = f"{self.name}: the {name} path is not used ({reason})"
                warnings.warn(text, stacklevel=3)
            self._verdicts[name] = reason
        return self._verdicts[name]

    def report(self) -> dict[str, str]:
        """Fast path → whether it is in use, and why not."""
        found, permitted = {}, wanted()
        for name, path in self.paths.items():
            if name == "reference":
                continue
            if path.missing():
                found[name] = f"not available: {path.missing()}"
            elif not _permits(permitted, name):
                found[name] = f"switched off by SG3_OPS={permitted}"
            else:
                reason = self.verdict(name)
                found[name] = f"not used: {reason}" if reason else "agrees with the definition"
        return found


def constant_when_compiled(function: Callable) -> Callable:
    """Let `torch.compile` call `function` once and keep its result.

    What `torch.compiler.assume_constant_result` does, which imports torch._dynamo for 1.7 s.
    """
    function._dynamo_marked_constant = True
    return function


def relative_error(results: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference of any pair over its expected maximum; infinite for NaN."""
    errors = [
        float((a - e).abs().max() / e.abs().max()) for a, e in zip(results, expected, strict=True)
    ]
    return float("inf") if any(error != error for error in errors) else max(errors)


def report() -> dict[str, str]:
    """`operator, path` → whether it is in use here; compares each with the definition."""
    return {
        f"{operator.name}, {name}": state
        for operator in OPERATORS
        for name, state in operator.report().items()
    }
