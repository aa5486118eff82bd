"""`sg3 push`."""

from __future__ import annotations

import click

from sg3.cli.options import argument, config_option, debug_option, option
from sg3.push_config import PushConfig


@click.command()
@argument("source", metavar="FOLDER|FILE")
@argument("repo", metavar="OWNER/NAME")
@config_option(PushConfig, "licence", metavar="ID")
@config_option(PushConfig, "data", metavar="TEXT")
@config_option(PushConfig, "private")
@config_option(PushConfig, "revision", metavar="BRANCH")
@config_option(PushConfig, "message", metavar="TEXT")
@option("--dry-run", is_flag=True, help="Upload nothing: print the model card and the files.")
@debug_option
def push(source: str, repo: str, dry_run: bool, **settings) -> None:
    """Publish a network on the Hugging Face hub: FILE, or the last snapshot of the run in FOLDER.

    The file is uploaded as it is, with a model card that tells licence, data, command and metrics,
    and with pictures. Paths of this machine are left out. Needs a token: `hf auth login`.

    \b
    Example:
      sg3 push mini-faces me/mini-faces --dry-run
    """
    from sg3.push import prepare, require_token
    from sg3.push import push as upload

    config = PushConfig(**settings)
    if not dry_run:
        require_token(repo)
    package = prepare(source, repo, config)
    if dry_run:
        click.echo(package.card)
        click.echo(f"Files: {', '.join(package.files)}")
        return
    click.echo(upload(package, config))
    click.echo(f"Load it with --network hf://{repo}/{package.network}", err=True)
