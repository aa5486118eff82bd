"""Shared parts of the commands of `guidance` and `nada`: options, loading, messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guidance.templates import TEMPLATES, templates_of
from sg3.cli.options import ParsedType, check_files, load_options, option, with_deltas
from sg3.errors import UserError

if TYPE_CHECKING:  # torch is imported when a command runs: `--help` is quick
    import torch

    from guidance.encoders import Encoder
    from guidance.prompts import Prompt
    from sg3.networks.generator import MappedGenerator


def parse_templates(text: str) -> str | tuple[str, ...]:
    """A name in `guidance.templates`, or the sentences in a file, one per line.

    Raises ValueError for neither, or for a line without exactly one `{}`.
    """
    if text in TEMPLATES:
        return text
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        known = ", ".join(TEMPLATES)
        raise UserError(f"got {text!r}, expected {known} or a file of lines with {{}}") from None
    sentences = [line.strip() for line in lines if line.strip()]
    for sentence in sentences:
        if sentence.count("{}") != 1:
            raise UserError(f"got line {sentence[:60]!r} of {text}, expected one {{}} in each line")
    return templates_of(sentences)


templates_option = option(
    "--templates",
    type=ParsedType("templates", parse_templates),
    default="plain",
    metavar="plain|mini|imagenet|FILE",
    help="Sentences to average each text over. imagenet suits texts like 'smiling face'; a FILE "
    "holds one sentence per line, with {} in place of the text.",
)


def outdir_option(unset: str):
    """Option --outdir; `unset` says where files go without it."""
    return option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        unset=unset,
        help="Output folder; created if missing.",
    )


@dataclass(frozen=True)
class LoadedNetwork:
    """A generator for a command.

    Attributes:
        source: the generator of the file.
        G: the generator with deltas applied.
        sha256: hash of the file.
        origin: metadata for files of latents made with `G`.
    """

    source: MappedGenerator
    G: MappedGenerator
    sha256: str
    origin: dict[str, str]


def load_network(
    network: str, device: torch.device, deltas: Sequence[tuple[str, float]] = ()
) -> LoadedNetwork:
    """Load a network file and apply deltas. Raises ValueError if it has no generator."""
    import sg3
    from guidance.generator import generator_of

    nets = sg3.load(network, device, only_ema=True, **load_options())
    source, sha256 = generator_of(nets), nets.meta["sha256"]
    origin = {"network": network, "network_sha256": sha256}
    if deltas:
        origin["deltas"] = json.dumps(deltas)
    return LoadedNetwork(source, generator_of(with_deltas(source, deltas)), sha256, origin)


def load_models(
    network: str, clip: str, device: torch.device, deltas: Sequence[tuple[str, float]] = ()
) -> tuple[LoadedNetwork, Encoder]:
    """Load a network file and an encoder."""
    from guidance.encoders import load_encoder

    check_files(network)
    encoder = load_encoder(clip, device)  # first: a misspelt name fails before the download
    return load_network(network, device, deltas), encoder


def slug(text: str, max_length: int = 40) -> str:
    """A text as a folder name: lower-case letters and digits joined by dashes."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:max_length].strip("-") or "prompt"


def warn_of_unread_words(encoder: Encoder, prompts: Sequence[Prompt]) -> None:
    """Print which words of the prompts the encoder does not know or cuts off."""
    from guidance.encoders import left_out, unknown_words

    texts = [prompt.text for prompt in prompts if prompt.image is None]
    for text in texts:
        if (cut := left_out(encoder, text)) is not None:
            click.echo(f"Note: only the first {cut[0]} words count; left out: {cut[1]}", err=True)
    if words := unknown_words(encoder, texts):
        click.echo(f"Note: the encoder does not know: {', '.join(words)}", err=True)


@contextmanager
def argument_prefix(prefix: str) -> Iterator[None]:
    """Prefix the argument that an error within the block names.

    A command whose options set fields of several configurations names their parameters
    "tune__steps"; with this, the error of a field is reported with the option it belongs to.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None
