"""Networks as files for other runtimes: ONNX and torch.export (`sg3 export`)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import warnings
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ops_cuda.choose import can_export
from sg3.checkpoints.safetensors_io import as_stored
from sg3.errors import UserError
from sg3.export.config import SUFFIXES, ExportConfig
from sg3.export.phases import FORMS
from sg3.export.plain import plain_generator
from sg3.files import atomic_path
from sg3.networks.generator import MappedGenerator

TRANSFORM = "synthesis.input.transform"
#: Version of the ONNX operators; torch's exporter writes this one without a conversion.
OPSET = 18


class ExportedNetwork(nn.Module):
    """A generator, or a part of it, whose inputs are all tensors.

    Inputs, as far as the part and the network have them: `z` `[N, z_dim]` or `ws`
    `[N, num_ws, w_dim]`, `c` `[N, c_dim]`, `truncation_psi` `[1]`, and `transform` `[3, 3]`, which
    maps output to input coordinates as `synthesis.input.transform` does. The output is `image`
    `[N, C, H, W]` or `ws`.
    """

    def __init__(self, G: MappedGenerator, config: ExportConfig):
        super().__init__()
        self.G = plain_generator(G, FORMS[config.filters])
        self.part, self.noise_mode = config.part, config.noise_mode
        self.movable = TRANSFORM in dict(self.G.named_buffers()) and self.part != "mapping"
        if config.half:
            for name, parameter in self.G.named_parameters():
                parameter.data = as_stored(name, parameter.data, fp16=True)

    def example_inputs(self, batch: int) -> dict[str, torch.Tensor]:
        """Return valid inputs by name, in order."""
        G: Any = self.G
        random = torch.Generator().manual_seed(0)
        inputs: dict[str, torch.Tensor] = {}
        labels = torch.eye(G.c_dim)[torch.arange(batch) % G.c_dim] if G.c_dim else None
        if self.part == "synthesis":
            z = torch.randn([batch, G.z_dim], generator=random)
            with torch.no_grad():
                inputs["ws"] = functional_call(G.mapping, _float32(G.mapping), (z, labels))
        else:
            inputs["z"] = torch.randn([batch, G.z_dim], generator=random)
            if labels is not None:
                inputs["c"] = labels
            inputs["truncation_psi"] = torch.full([1], 0.7)
        if self.movable:
            inputs["transform"] = torch.tensor([[0.96, -0.28, 0.1], [0.28, 0.96, 0], [0, 0, 1]])
        return inputs

    def forward(
        self,
        z: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        truncation_psi: torch.Tensor | None = None,
        ws: torch.Tensor | None = None,
        transform: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return `image`, or `ws` of the mapping."""
        # Weights in half precision are stored, never computed with.
        weights = _float32(self.G)
        if transform is not None:
            weights[TRANSFORM] = transform
        arguments = {"z": z, "c": c, "truncation_psi": truncation_psi, "ws": ws}
        network = _Parts(self.G, self.part, self.noise_mode)
        named = {f"G.{name}": value for name, value in weights.items()}
        return functional_call(network, named, (), arguments)


class _Parts(nn.Module):
    """The computation of `ExportedNetwork` on the weights that it puts in place."""

    def __init__(self, G: nn.Module, part: str, noise_mode: str):
        super().__init__()
        self.G, self.part, self.noise_mode = G, part, noise_mode

    def forward(self, z, c, truncation_psi, ws):
        G: Any = self.G
        if self.part != "synthesis":
            ws = G.mapping(z, c)
            ws = G.mapping.w_avg + (ws - G.mapping.w_avg) * truncation_psi
        if self.part == "mapping":
            return ws
        return G.synthesis(ws, noise_mode=self.noise_mode, force_fp32=True)


def _float32(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.float()
        for name, value in module.named_parameters()
        if value.dtype == torch.float16
    }


def export_network(G: MappedGenerator, path: str | os.PathLike, config: ExportConfig) -> None:
    """Write a generator as a file that runs without sg3, out of plain operators, atomically.

    Args:
        G: generator, such as `sg3.load(...).G_ema`.
        path: file name ending in .onnx or .pt2, as the format says.
        config: settings.

    Raises:
        ValueError: another suffix, or a package for the format is missing.
        OSError: the file cannot be written.
    """
    check_target(path, config)
    network = ExportedNetwork(G, config)
    program = _recorded(network, config)
    with atomic_path(path) as temporary:
        if config.format == "pt2":
            torch.export.save(program, temporary)
        else:
            _save_onnx(program, network, temporary, G)


def check_target(path: str | os.PathLike, config: ExportConfig) -> None:
    """Raise ValueError for a wrong suffix, and where a package for the format is missing."""
    suffix = SUFFIXES[config.format]
    if not os.fspath(path).endswith(suffix):
        raise UserError(f"output: got {path}, expected a name ending in {suffix}")
    if not can_export():
        raise UserError(f"sg3 export needs torch 2.7 or newer, found {torch.__version__}")
    missing = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if config.format == "onnx" and missing:
        raise UserError(f"format: onnx needs {' and '.join(missing)}; pip install 'sg3[export]'")


def _recorded(network: ExportedNetwork, config: ExportConfig) -> Any:
    """Return the program that `torch.export` records."""
    # A dynamic size must not be 0 or 1 in the example.
    inputs = network.example_inputs(2 if config.dynamic_batch else 1)
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = {
        name: {0: batch} if config.dynamic_batch and name in ("z", "c", "ws") else None
        for name in inputs
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (), kwargs=inputs, dynamic_shapes=shapes, strict=False)


def _save_onnx(program: Any, network: ExportedNetwork, path: os.PathLike, G: Any) -> None:
    output = "ws" if network.part == "mapping" else "image"
    # The exporter prints its progress.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program, opset_version=OPSET, output_names=[output], dynamo=True, verbose=False
        )
    assert onnx is not None, "torch.onnx.export returns a program when it is given no file"
    for node in onnx.model.graph:  # the traceback of every operator would take a fifth of the file
        node.metadata_props.clear()
    kwargs = {"kind": G.kind, **G.init_kwargs}
    onnx.model.metadata_props["sg3"] = json.dumps(kwargs)
    onnx.save(path, external_data=False)
