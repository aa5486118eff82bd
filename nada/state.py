"""State of an adaptation in one safetensors file, to resume it; metadata hold all but tensors."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nada.adaptation import Adaptation
from nada.config import AdaptConfig
from sg3.errors import DAMAGE, UserError
from sg3.files import aligned, parse_json, write_tensors

FORMAT, VERSION = "sg3-adaptation", "1"
#: Settings that may change when resuming: they decide only when the adaptation ends.
FREE = ("steps", "stop")


@dataclass(frozen=True)
class SavedState:
    """Contents of a state file.

    Attributes:
        state: For `Adaptation.load_state_dict`.
        arguments: Arguments that must be the same to resume, see `arguments_of`.
        free: Values of the settings in `FREE`.
    """

    state: dict[str, Any]
    arguments: dict[str, Any]
    free: dict[str, Any]

    @property
    def index(self) -> int:
        """Index of the latest step."""
        return self.state["index"]


def arguments_of(adaptation: Adaptation, **more: Any) -> dict[str, Any]:
    """Return everything that determines the result of an adaptation, JSON-able.

    These are its texts, its settings except `FREE`, and `more`: what it does not know itself, such
    as the hash of the network and the name of the encoder.
    """
    source, target = adaptation.texts
    found = {"source": source, "target": target, **more}
    found |= {k: v for k, v in _settings(adaptation.config).items() if k not in FREE}
    return _as_json(found)


def _settings(config: AdaptConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(config).items():
        if isinstance(value, dict) and name not in FREE:
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def _as_json(value: Any) -> Any:
    """`value` after a round trip through JSON: tuples become lists."""
    return json.loads(json.dumps(value))


def write_state(path: str | os.PathLike, adaptation: Adaptation, arguments: dict[str, Any]) -> None:
    """Save the state of `adaptation` atomically; `arguments` from `arguments_of`."""
    tensors: dict[str, torch.Tensor] = {}
    settings = _settings(adaptation.config)
    content = {
        "state": _pack(adaptation.state_dict(), tensors, "state"),
        "arguments": arguments,
        "free": {name: settings[name] for name in FREE},
    }
    metadata = {"format": FORMAT, "version": VERSION, "content": json.dumps(content)}
    write_tensors(path, tensors, metadata)


def read_state(path: str | os.PathLike) -> SavedState:
    """Load a file of `write_state`. Raises UserError for any other file."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise UserError(f"{path}: not an adaptation state of this version")
            content = parse_json(metadata["content"])
            state = _unpack(content["state"], file)
        return SavedState(state, content["arguments"], content["free"])
    except UserError:
        raise
    except (SafetensorError, ValueError, *DAMAGE) as error:
        raise UserError(f"{path}: damaged: {type(error).__name__} {error}") from None


def resume(adaptation: Adaptation, saved: SavedState, arguments: dict[str, Any]) -> None:
    """Load `saved` into a new `adaptation`, which then continues bit for bit.

    An adaptation that had ended continues only if `steps` is larger or the stop rule differs.

    Args:
        adaptation: A new adaptation with the same arguments.
        saved: From `read_state`.
        arguments: Those of `adaptation`, from `arguments_of`.

    Raises UserError if arguments differ, if `steps` is less than the number of steps made, or if
    it changes although decay or stages depend on it.
    """
    then = saved.arguments
    differing = [n for n in sorted(then.keys() | arguments) if then.get(n) != arguments.get(n)]
    if differing:
        found = ", ".join(f"{n} {arguments.get(n)!r} (was {then.get(n)!r})" for n in differing)
        raise UserError(f"resume: got {found}; repeat the original command")
    state, config = saved.state, adaptation.config
    ended = state["reason"] is not None
    if config.steps < saved.index or (config.steps == saved.index and not ended):
        raise UserError(
            f"steps: got {config.steps}, expected more than the {saved.index} already made"
        )
    scheduled = config.decay > 0 or len(adaptation.choice.stages) > 1
    if scheduled and config.steps != saved.free["steps"]:
        raise UserError(
            f"steps: got {config.steps} (was {saved.free['steps']}), but decay and stages of "
            "layers depend on it; repeat the original command"
        )
    free = _as_json({name: _settings(config)[name] for name in FREE})
    by_count = saved.index == saved.free["steps"]
    if ended and config.steps > saved.index and (by_count or free["stop"] != saved.free["stop"]):
        # The last step is always checked; in a longer run it may not be.
        checks = [c for c in state["watch"]["checks"] if c["index"] % config.check_every == 0]
        state = {**state, "reason": None, "watch": {**state["watch"], "checks": checks}}
    adaptation.load_state_dict(state)


def _pack(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    """Return `value` with every tensor moved to `tensors`.

    Dicts become lists of pairs, since their keys may be numbers, which JSON does not have.
    """
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"items": [[k, _pack(v, tensors, f"{path}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]
    return value


def _unpack(value: Any, file: Any) -> Any:
    """Invert `_pack`."""
    if isinstance(value, list):
        return [_unpack(v, file) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        # MKL rounds by where its factors lie in memory, and resuming must be exact (docs/LOG.md).
        return aligned(file.get_tensor(value["tensor"]))
    return {k: _unpack(v, file) for k, v in value["items"]}
