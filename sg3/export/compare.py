"""Comparison of an exported file with the network that it was made from."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sg3.errors import UserError
from sg3.export.config import ExportConfig
from sg3.export.graph import ExportedNetwork
from sg3.networks.generator import MappedGenerator

#: Largest difference of an image (−1 to 1) or latent in float32.
TOLERANCE = 1e-4
ROUNDS = 5

Run = Callable[[dict[str, torch.Tensor]], np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """How an exported file compares with its network.

    Attributes:
        difference: largest difference of the outputs.
        cpu_ratio: CPU time of the file divided by that of the network.
        runner: what ran the file.
    """

    difference: float
    cpu_ratio: float
    runner: str

    @property
    def text(self) -> str:
        """One line for the user."""
        return (
            f"largest difference from the network {self.difference:.1e}, "
            f"CPU time {self.cpu_ratio:.2f} × its own ({self.runner})"
        )


def compares_with(config: ExportConfig) -> str:
    """Return why files of this format cannot be run here, or ""."""
    if config.format == "onnx" and not importlib.util.find_spec("onnxruntime"):
        return "onnxruntime is not installed; pip install 'sg3[export]'"
    return ""


def compare(G: MappedGenerator, path: str | os.PathLike, config: ExportConfig) -> Comparison:
    """Run an exported file on a few inputs and compare results and CPU time with those of `G`.

    Raises ValueError if the results differ by more than `TOLERANCE`, unless weights are halved.
    """
    network = ExportedNetwork(G, config)
    run, runner = _onnx_runner(path) if config.format == "onnx" else _pt2_runner(path)
    batches = (1, 3) if config.dynamic_batch else (1,)
    difference = 0.0
    for batch in batches:
        inputs = network.example_inputs(batch)
        difference = max(difference, float(np.abs(run(inputs) - ours(G, config, inputs)).max()))
    if not config.half and not difference <= TOLERANCE:
        raise UserError(
            f"{path}: differs from the network by {difference:.1e}, expected at most "
            f"{TOLERANCE:.0e}; please report this"
        )
    inputs = network.example_inputs(1)
    own = _cpu_seconds(lambda: ours(G, config, inputs))
    return Comparison(difference, _cpu_seconds(lambda: run(inputs)) / own, runner)


def ours(G: MappedGenerator, config: ExportConfig, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Return what `G` itself computes from the inputs of an exported file."""
    buffer = getattr(getattr(G.synthesis, "input", None), "transform", None)
    before = None if buffer is None else buffer.clone()
    synthesis: Any = G.synthesis
    try:
        if buffer is not None and "transform" in inputs:
            buffer.copy_(inputs["transform"])
        with torch.no_grad():
            ws = inputs.get("ws")
            if ws is None:
                psi = float(inputs["truncation_psi"])
                ws = G.mapping(inputs["z"], inputs.get("c"), truncation_psi=psi)
            if config.part != "mapping":
                return synthesis(ws, noise_mode=config.noise_mode, force_fp32=True).numpy()
            return ws.numpy()
    finally:
        if buffer is not None:
            buffer.copy_(before)


def _onnx_runner(path: str | os.PathLike) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As many threads as torch uses, which does not spin while it waits.
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )

    def run(inputs: dict[str, torch.Tensor]) -> np.ndarray:
        return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]

    return run, f"onnxruntime {onnxruntime.__version__}"


def _pt2_runner(path: str | os.PathLike) -> tuple[Run, str]:
    module = torch.export.load(path).module()

    def run(inputs: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.no_grad():
            return module(**inputs).numpy()

    return run, f"torch {torch.__version__}"


def _cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the least CPU time of a few calls, after one to warm up."""
    call()
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)
