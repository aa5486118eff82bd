"""`sg3 models`."""

from __future__ import annotations

from pathlib import Path

import click

from sg3.cli.options import argument, debug_option


@click.group(invoke_without_command=True)
@debug_option
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the networks that can be loaded by name; `get` downloads one.

    Your own names, with hashes, go into ~/.config/sg3/models.json, or the file in the environment
    variable SG3_MODELS: {"my-faces": {"source": "URL, hf:// address or path", "sha256": "…"}}.

    \b
    Examples:
      sg3 models
      sg3 models get stylegan3-t-ffhq-1024
    """
    if ctx.invoked_subcommand is None:
        for line in _table():
            click.echo(line)


def _table() -> list[str]:
    """Return the lines of the list."""
    from sg3.checkpoints.download import cache_dir, cached_path, official_copy
    from sg3.checkpoints.registry import REGISTRY, known_networks
    from sg3.checkpoints.user_models import user_models_path

    rows = [("NAME", "RESOLUTION", "SIZE", "LOCAL", "LICENCE", "SOURCE")]
    for entry in known_networks().values():
        path = entry.bundled or cached_path(entry.source)
        if not path.exists() and entry.bundled is None:
            path = official_copy(entry.source) or path
        local = path.exists()
        own = entry.name not in REGISTRY
        kind = "cached" if entry.bundled is None else "file" if own else "bundled"
        rows.append(
            (
                entry.name,
                f"{entry.resolution}x{entry.resolution}" if entry.resolution else "-",
                _size(path) if local else "-",
                kind if local else "-",
                entry.licence,
                entry.source if own or entry.bundled is None else "this project",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    return [
        *lines,
        f"Downloads are stored in {cache_dir()}; set SG3_CACHE_DIR to move them.",
        f"Your own names go into {user_models_path()}; `sg3 models --help` shows how.",
    ]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


@models.command()
@argument("name")
@debug_option
def get(name: str) -> None:
    """Download network NAME (or an https URL or hf:// address) and print the path of the file.

    \b
    Example:
      sg3 models get stylegan3-t-ffhq-1024
    """
    from sg3.checkpoints.load import locate

    path, entry = locate(name)
    if entry is not None:
        click.echo(f"licence: {entry.licence}", err=True)
    click.echo(path)
