"""The state of an adaptation: one safetensors file, whose metadata hold what is not a tensor."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nada.adapt import Adaptation
from nada.config import AdaptConfig
from sg3.errors import UserError
from sg3.files import aligned, write_tensors

FORMAT, VERSION = "sg3-adaptation", "1"
#: Settings that may change when an adaptation goes on: how far it goes, and when it ends.
FREE = ("steps", "stop")


@dataclass(frozen=True)
class SavedState:
    """`state` for `Adaptation.load_state_dict`; `arguments` that have to be the same to go on;
    `free`, those of `FREE`, as they were."""

    state: dict[str, Any]
    arguments: dict[str, Any]
    free: dict[str, Any]

    @property
    def index(self) -> int:
        """The step after which it was written."""
        return self.state["index"]


def arguments_of(adaptation: Adaptation, **also) -> dict[str, Any]:
    """What decides the numbers of an adaptation, JSON-able: its texts, its settings, and `also`
    (what it cannot know: the network's hash, the encoder as the user wrote it)."""
    source, target = adaptation.texts
    found = {"source": source, "target": target, **also}
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


def _as_json(value):
    """As it looks after a way through a file: tuples are lists."""
    return json.loads(json.dumps(value))


def write_state(path: str | os.PathLike, adaptation: Adaptation, arguments: dict[str, Any]) -> None:
    """Write where `adaptation` is, atomically; `arguments` from `arguments_of`."""
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
    """Read what `write_state` wrote. Raises UserError, one line, for any other file."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise UserError(f"{path}: not the state of an adaptation of this version")
            content = json.loads(metadata["content"])
            state = _unpack(content["state"], file)
        return SavedState(state, content["arguments"], content["free"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged: {type(error).__name__} {error}") from None


def go_on(adaptation: Adaptation, saved: SavedState, arguments: dict[str, Any]) -> None:
    """Let a new `adaptation` go on where `saved` was, bit for bit.

    `arguments` are its own, from `arguments_of`. More steps (where nothing is scheduled by their
    number) and another stop rule go on with one that had ended; without them it stays ended.
    Raises UserError, one line with the names, if arguments differ, or if there are fewer steps than
    were made.
    """
    then = saved.arguments
    differing = [n for n in sorted(then.keys() | arguments) if then.get(n) != arguments.get(n)]
    if differing:
        found = ", ".join(f"{n} {arguments.get(n)!r} (was {then.get(n)!r})" for n in differing)
        raise UserError(f"resume: got {found}; repeat the command that began it")
    state, config = saved.state, adaptation.config
    ended = state["reason"] is not None
    if config.steps < saved.index or (config.steps == saved.index and not ended):
        raise UserError(f"steps: got {config.steps}, but {saved.index} were made; expected more")
    scheduled = config.decay > 0 or len(adaptation.choice.stages) > 1
    if scheduled and config.steps != saved.free["steps"]:
        raise UserError(
            f"steps: got {config.steps} (was {saved.free['steps']}), but decay and stages of "
            "layers depend on it; repeat the command that began it"
        )
    free = _as_json({name: _settings(config)[name] for name in FREE})
    by_count = saved.index == saved.free["steps"]
    if ended and config.steps > saved.index and (by_count or free["stop"] != saved.free["stop"]):
        # The last step is looked at whatever its number; a longer run would not have.
        checks = [c for c in state["watch"]["checks"] if c["index"] % config.check_every == 0]
        state = {**state, "reason": None, "watch": {**state["watch"], "checks": checks}}
    adaptation.load_state_dict(state)


def _pack(value, tensors: dict[str, torch.Tensor], path: str):
    """`value` with every tensor moved to `tensors`. Dicts become lists of pairs, since their keys
    may be numbers."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"items": [[k, _pack(v, tensors, f"{path}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]
    return value


def _unpack(value, file):
    if isinstance(value, list):
        return [_unpack(v, file) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return aligned(file.get_tensor(value["tensor"]))
    return {k: _unpack(v, file) for k, v in value["items"]}
