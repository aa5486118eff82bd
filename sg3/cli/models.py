"""`sg3 models`."""

from __future__ import annotations

from pathlib import Path

import click

from sg3.cli.options import debug_option


@click.group(invoke_without_command=True)
@debug_option
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the networks that have names; `get` downloads one.

    \b
    Example:
      sg3 models
      sg3 models get stylegan3-t-ffhq-1024
    """
    if ctx.invoked_subcommand is None:
        for line in _table():
            click.echo(line)


def _table() -> list[str]:
    from sg3.checkpoints.download import cache_dir, cached_path, official_copy
    from sg3.checkpoints.registry import REGISTRY

    rows = [("NAME", "RESOLUTION", "SIZE", "HERE", "LICENCE", "FROM")]
    for entry in REGISTRY.values():
        path = entry.bundled or cached_path(entry.source)
        if not path.exists() and entry.bundled is None:
            path = official_copy(entry.source) or path
        here = path.exists()
        kept = "bundled" if entry.bundled else "cached"
        rows.append(
            (
                entry.name,
                f"{entry.resolution}x{entry.resolution}",
                _size(path) if here else "-",
                kept if here else "-",
                entry.licence,
                entry.source if entry.bundled is None else "this project",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    return [*lines, f"Downloads are kept in {cache_dir()} (SG3_CACHE_DIR moves it)."]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


@models.command()
@click.argument("name")
@debug_option
def get(name: str) -> None:
    """Download network NAME (or an https address) and print where it is.

    \b
    Example:
      sg3 models get stylegan3-t-ffhq-1024
    """
    from sg3.checkpoints.load import locate

    path, entry = locate(name)
    if entry is not None:
        click.echo(f"licence: {entry.licence}", err=True)
    click.echo(path)
