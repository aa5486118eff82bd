"""Which path computes an operator: the fast one of the device, if it computes the definition.

`SG3_OPS` says `auto` (the default), `reference` (the definition everywhere), `cpu` or `triton`
(only that fast path). Each fast path is compared with the definition once per process, on a
small input; one that differs or fails is left out with a warning, and `report` says why.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from types import ModuleType

import torch

CHOICES = ("auto", "reference", "cpu", "triton")
TOLERANCE = 1e-5


def wanted() -> str:
    """The value of SG3_OPS. Raises ValueError if it is none of `CHOICES`."""
    value = os.environ.get("SG3_OPS", "auto") or "auto"
    if value not in CHOICES:
        raise ValueError(f"SG3_OPS: got {value!r}, expected {', '.join(CHOICES)}")
    return value


def allows(name: str) -> bool:
    """True if SG3_OPS permits the fast path `name` (`cpu` or `triton`)."""
    return wanted() in ("auto", name)


@lru_cache
def _verdict(path: ModuleType, name: str, device_type: str) -> str:
    """Empty when the path agrees with the definition on a small input, else the reason."""
    try:
        error = _disagreement(path, torch.device(device_type))
    except Exception as problem:  # a failed build, a missing driver: nothing a user did
        reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
    else:
        reason = "" if error < TOLERANCE else f"differs from the definition by {error:.1e}"
    if reason:
        warnings.warn(f"ops_cuda: the {name} path is not used ({reason})", stacklevel=3)
    return reason


def trusted(path: ModuleType, name: str, device: torch.device) -> bool:
    """True if the fast path `name` may compute on `device`; compares it on its first use."""
    return _verdict(path, name, device.type) == ""


def _disagreement(path: ModuleType, device: torch.device) -> float:
    """Largest relative error of `path` in a forward pass and its gradient."""
    from ops_cuda.filtered_lrelu import definition
    from ops_cuda.filtered_lrelu.definition import Geometry

    random = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, [1, 3, 9, 11], generator=random).float()
    b = torch.randint(-3, 4, [3], generator=random).float()
    # Whole numbers over powers of two: the sign of the upsampled signal is exact on every path.
    fu, fd = (torch.randint(1, 9, [12], generator=random).float() / 32 for _ in range(2))
    x, b, fu, fd = (t.to(device) for t in (x, b, fu, fd))
    geometry = Geometry(2, 2, (9, 8, 9, 8), 2.0, 0.25, 16.0, False)
    y, states = definition.forward_with_states(x, fu, fd, b, geometry)
    fast_y, fast_states = path.forward_with_states(x, fu, fd, b, geometry)
    back = geometry.transposed(x.shape, fu, fd)
    pairs = [
        (fast_y, y),
        (path.forward(x, fu, fd, b, geometry), y),
        (path.linear(y, fd, fu, fast_states, back), definition.linear(y, fd, fu, states, back)),
    ]
    errors = [float((a - e).abs().max() / e.abs().max()) for a, e in pairs]
    return float("inf") if any(error != error for error in errors) else max(errors)


def report() -> dict[str, str]:
    """Name of every fast path → `in use`, or why not; compares each with the definition."""
    from ops_cuda.filtered_lrelu.operator import fast_paths

    found = {}
    for name, (path, device_type, missing) in fast_paths().items():
        if missing:
            found[name] = f"not available: {missing}"
        elif not allows(name):
            found[name] = f"switched off by SG3_OPS={wanted()}"
        else:
            reason = _verdict(path, name, device_type)
            found[name] = f"not used: {reason}" if reason else "in use, agrees with the definition"
    return found
