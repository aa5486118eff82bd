"""Loading of an official StyleGAN3-T pickle at 256 pixels: CPU time and memory.

    python -m benchmarks loading

Writes a pickle of random weights (G, D, G_ema; 343 MB) into a temporary folder and reads it in
processes of their own: with Python's unpickler, which stops at arrays of torch and builds no
networks, with `sg3.load`, and with `only_ema=True`. Memory is counted above what the process had
after the imports: kept at the end, and at the peak; beside it the size of the tensors.
"""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

import sg3
from benchmarks._results import write_results
from recipes.arguments import argument_parser
from sg3.networks import build_network

SIZES: dict[str, Any] = {"c_dim": 0, "img_resolution": 256, "img_channels": 3}
GENERATOR = {**SIZES, "z_dim": 512, "w_dim": 512, "mapping_kwargs": {"num_layers": 2}}
HOW = ("unpickler", "load", "only_ema")


def reconstruct(meta: dict) -> dict:
    """Stand for the function that official pickles call for each module."""
    return meta


class _Module:
    def __init__(self, module: nn.Module, kwargs: dict[str, Any] | None = None):
        state = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
        state["_modules"] = {n: _Module(m) for n, m in module._modules.items() if m is not None}
        state |= {"_init_args": (), "_init_kwargs": kwargs} if kwargs else {}
        self.meta = {"type": "class", "version": 6, "module_src": "", "state": state}
        self.meta["class_name"] = type(module).__name__

    def __reduce__(self) -> tuple:
        return reconstruct, (self.meta,)


def write_pickle(path: Path) -> None:
    """Write a snapshot as the official trainer does."""
    G, D = build_network("stylegan3", GENERATOR), build_network("discriminator", SIZES)
    G_ema = build_network("stylegan3", GENERATOR)
    content = {"G": _Module(G, GENERATOR), "D": _Module(D, SIZES)}
    content["G_ema"] = _Module(G_ema, GENERATOR)
    module = types.ModuleType("torch_utils.persistence")
    reconstruct.__module__, reconstruct.__qualname__ = (
        module.__name__,
        "_reconstruct_persistent_obj",
    )
    module._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}
    with open(path, "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pickle.dump(content, file, protocol=4)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch_utils.persistence":
            return reconstruct
        return super().find_class(module, name)


def memory_mb(field: str) -> float:
    """Return a field of this process's status in MB: "VmRSS", now; "VmHWM", the peak (Linux)."""
    # Not getrusage, whose value a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """Let the peak begin anew at what the process has now: imports once needed far more."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(path: str, how: str) -> dict[str, float]:
    """Read `path` in this process; returns seconds of CPU and MB above the imports."""
    sg3.load("mini-faces")  # imports what loading needs
    build_network("discriminator", {**SIZES, "img_resolution": 8})
    gc.collect()
    forget_peak()
    before, start = memory_mb("VmRSS"), time.process_time()
    kept = 0.0
    if how == "unpickler":
        with open(path, "rb") as file:
            _Unpickler(file).load()
    else:
        networks = sg3.load(path, only_ema=how == "only_ema")
        parts = networks.parts().values()
        kept = sum(t.nbytes for part in parts for t in part.state_dict().values()) / 2**20
    seconds = time.process_time() - start
    results = {"cpu_s": round(seconds, 2), "tensors_mb": round(kept)}
    results["kept_mb"] = round(memory_mb("VmRSS") - before)
    return {**results, "peak_mb": round(memory_mb("VmHWM") - before)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "HOW"), help="Used by the parent.")
    args = parser.parse_args(arguments)
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t256.pkl")
        write_pickle(path)
        for how in HOW:
            command = [sys.executable, "-m", "benchmarks", "loading", "--measure", str(path), how]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[how] = json.loads(output.splitlines()[-1])
            print(f"{how:10}", *(f"{k} {v:g}" for k, v in results[how].items()))
    write_results("loading", results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
