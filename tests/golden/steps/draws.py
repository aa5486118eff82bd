"""Random numbers that follow from where they are drawn, start values and summaries: README.md beside this file.

import draws; draws.patch_torch(); ... draws.initial(G) ...; draws.ACTIVE = True
draws.enter("Gmain"); loss.accumulate_gradients(...); draws.leave()
"""

import hashlib

import numpy as np
import torch

ACTIVE = False
STATE = {"where": "loop", "step": -1, "count": {}}
_torch = {n: getattr(torch, n) for n in ("randn", "rand", "randn_like", "randint")}
_random_ = torch.Tensor.random_


def enter(phase: str) -> None:
    """A phase of a training step begins; `Gmain` (or `Gboth`) begins the step itself."""
    if phase in ("Gmain", "Gboth"):
        STATE["step"] += 1
    STATE["where"] = phase


def leave() -> None:
    STATE["where"] = "loop"  # latents and labels of the step are drawn here


def _rng(kind: str, shape) -> np.random.RandomState:
    step = 0 if STATE["where"] == "loop" else STATE["step"]
    key = (STATE["where"], step, kind, tuple(int(s) for s in shape))
    n = STATE["count"].get(key, 0)
    STATE["count"][key] = n + 1
    digest = hashlib.sha256(repr(key + (n,)).encode()).digest()
    return np.random.RandomState((int.from_bytes(digest[:8], "little") >> 1) % 2**32)


def _shape(args):
    return (
        tuple(args[0])
        if len(args) == 1 and isinstance(args[0], (list, tuple, torch.Size))
        else tuple(args)
    )


def randn(*size, **kw):
    if not ACTIVE:
        return _torch["randn"](*size, **kw)
    return torch.as_tensor(_rng("randn", _shape(size)).standard_normal(_shape(size)))


def randn_like(x, **kw):
    if not ACTIVE:
        return _torch["randn_like"](x, **kw)
    return torch.as_tensor(
        _rng("randn_like", x.shape).standard_normal(tuple(x.shape)), dtype=x.dtype
    )


def rand(*size, **kw):
    if not ACTIVE:
        return _torch["rand"](*size, **kw)
    return torch.as_tensor(_rng("rand", _shape(size)).random_sample(_shape(size)))


def randint(low, high, size, **kw):
    if not ACTIVE:
        return _torch["randint"](low, high, size, **kw)
    return torch.as_tensor(_rng("int", tuple(size)).randint(low, high, size=tuple(size)))


def random_(self, low=0, high=None, **kw):
    if not ACTIVE or self.dtype != torch.int64:
        return _random_(self, low, high, **kw) if high is not None else _random_(self, **kw)
    return self.copy_(
        torch.as_tensor(_rng("int", tuple(self.shape)).randint(low, high, size=tuple(self.shape)))
    )


def patch_torch() -> None:
    """Float64 everywhere, and the draws above."""
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.randn, torch.randn_like, torch.rand, torch.randint = randn, randn_like, rand, randint
    torch.Tensor.random_ = random_


def initial(net: torch.nn.Module) -> None:
    """Replace every random start value by one that follows from its name (mapping: times 100)."""
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if name.rsplit(".", 1)[-1] in ("weight", "const", "noise_const"):
                seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
                scale = 100.0 if name.startswith("mapping.fc") else 1.0
                value = np.random.RandomState(seed).standard_normal(tuple(t.shape)) * scale
                t.copy_(torch.as_tensor(value, dtype=t.dtype))


def summary(net: torch.nn.Module) -> dict[str, list[float]]:
    """Per tensor: its L2 norm, and its product with a vector that follows from its name."""
    out = {}
    for name, t in net.state_dict().items():
        if t.is_floating_point():
            a = t.detach().double().numpy().ravel()
            seed = int.from_bytes(hashlib.sha256(("probe " + name).encode()).digest()[:4], "little")
            out[name] = [
                float(np.sqrt((a * a).sum())),
                float(a @ np.random.RandomState(seed).standard_normal(a.size)),
            ]
    return out
