"""`sg3 doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import click

from sg3.cli.options import debug_option

PACKAGES = ("torch", "numpy", "numba", "triton", "open_clip_torch", "gradio")


@click.command()
@debug_option
def doctor() -> None:
    """Print versions, devices, and which operator implementations are in use, or why not.

    \b
    Examples:
      sg3 doctor
      SG3_OPS=reference sg3 doctor
    """
    for name, value in findings().items():
        click.echo(f"{name + ':':27s}{value}")


def findings() -> dict[str, str]:
    """Return what `sg3 doctor` prints, by name, in order."""
    import torch

    import ops_cuda  # noqa: F401  (registers the operators)
    from ops_cuda import choose
    from ops_cuda.cache import cache_dir
    from sg3._version import __version__
    from sg3.installation import shared_names

    found = {"sg3": __version__, "python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES}
    for name, others in shared_names().items():
        found[f"package {name}"] = (
            f"also installed by {', '.join(others)}, which overwrites files: use an environment "
            "of its own for sg3"
        )
    found["cpu"] = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads for torch"
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found["cache"] = str(cache_dir())
    found["SG3_OPS"] = choose.wanted()
    return found | choose.report()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
