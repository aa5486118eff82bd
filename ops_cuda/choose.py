"""Dispatch of operators: the fast path of the device, if it agrees with the reference.

`SG3_OPS` selects the paths: `auto` (default), `reference` (no fast paths), `cpu`, `triton` or
`composed` (only that fast path). Each fast path is compared with the reference implementation once
per process, on a small input. A path that fails or differs is disabled with a warning; `report`
gives the reason.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch

CHOICES = ("auto", "reference", "cpu", "triton", "composed")
TOLERANCE = 1e-5
#: All operators with fast paths, in import order.
OPERATORS: list[Operator] = []


def wanted() -> str:
    """Return the value of SG3_OPS. Raises ValueError if it is not one of `CHOICES`."""
    value = os.environ.get("SG3_OPS", "auto") or "auto"
    if value not in CHOICES:
        raise ValueError(f"SG3_OPS: got {value!r}, expected {', '.join(CHOICES)}")
    return value


def _permits(choice: str, path: str, device_type: str) -> bool:
    """Whether SG3_OPS=`choice` allows `path`; `cpu` also allows `composed` on CPUs."""
    return choice in ("auto", path) or (choice == device_type == "cpu" and path == "composed")


class Operator:
    """An operator and its implementations ("paths").

    Args:
        name: name of the operator, for messages.
        paths: name → module. "reference" is the reference implementation. A fast path defines
            `DEVICE_TYPE` (None: any), `DTYPES` and `missing()`, which returns why the path is
            unavailable on this machine, or an empty string.
        check: `check(path, device)` returns the largest relative error of a path on a small input.
    """

    def __init__(
        self,
        name: str,
        paths: dict[str, ModuleType],
        check: Callable[[ModuleType, torch.device], float],
    ):
        self.name, self.paths, self._check = name, paths, check
        self._verdicts: dict[tuple[str, str], str] = {}
        OPERATORS.append(self)

    def path(self, device_type: str, dtype: torch.dtype) -> str:
        """Return the name of the path for tensors of this device type and dtype."""
        permitted = wanted()
        for name, path in self.paths.items():
            if name == "reference" or not _permits(permitted, name, device_type):
                continue
            fits = path.DEVICE_TYPE in (None, device_type) and dtype in path.DTYPES
            if fits and not path.missing() and not self.verdict(name, device_type):
                return name
        return "reference"

    def verdict(self, name: str, device_type: str) -> str:
        """Return why a path is disabled, or "" if it agrees with the reference. Warns once."""
        key = (name, device_type)
        if key not in self._verdicts:
            path = self.paths[name]
            try:
                error = self._check(path, torch.device(device_type))
            except Exception as problem:  # failed build, missing driver, …: fall back, never crash
                reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            else:
                reason = "" if error < TOLERANCE else f"differs from the reference by {error:.1e}"
            if reason:
                text = f"{self.name}: the {name} path is not used ({reason})"
                warnings.warn(text, stacklevel=3)
            self._verdicts[key] = reason
        return self._verdicts[key]

    def report(self) -> dict[str, str]:
        """Return the status of each fast path by name."""
        found, permitted = {}, wanted()
        for name, path in self.paths.items():
            if name == "reference":
                continue
            device_type = path.DEVICE_TYPE or ("cuda" if torch.cuda.is_available() else "cpu")
            if path.missing():
                found[name] = f"not available: {path.missing()}"
            elif not _permits(permitted, name, device_type):
                found[name] = f"disabled by SG3_OPS={permitted}"
            else:
                reason = self.verdict(name, device_type)
                found[name] = f"not used: {reason}" if reason else "agrees with the reference"
        return found


def constant_when_compiled(function: Callable) -> Callable:
    """Decorator: `torch.compile` evaluates `function` once, at trace time.

    Equivalent to `torch.compiler.assume_constant_result`, without importing torch._dynamo, which
    takes 1.7 s.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def exporting() -> bool:
    """Whether `torch.export` is recording: operators then run as plain PyTorch.

    A graph with our custom operators could only run where this package is installed.
    """
    return can_export() and torch.compiler.is_exporting()


def can_export() -> bool:
    """Whether this torch can tell that it is exporting: 2.7 or newer."""
    return hasattr(torch.compiler, "is_exporting")


def relative_error(results: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the maximum over pairs of `max|result − expected| / max|expected|`; inf for NaN."""
    errors = [
        float((a - e).abs().max() / e.abs().max()) for a, e in zip(results, expected, strict=True)
    ]
    # NaN compares false with everything, so `max` could hide it.
    return float("inf") if any(error != error for error in errors) else max(errors)


def report() -> dict[str, str]:
    """Return "operator, path" → status. Compares each fast path with the reference."""
    return {
        f"{operator.name}, {name}": state
        for operator in OPERATORS
        for name, state in operator.report().items()
    }
