"""`sg3 adapt`: run `nada.adapt` from the command line and record it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guidance.commands.common import argument_prefix, slug, warn_of_unread_words
from nada.commands.adapt_options import PARTS, adapt_options
from nada.config import AdaptConfig, RecordConfig, StopRule, usual_config
from sg3.cli.options import check_files, load_options, need_option, resolve_device
from sg3.cli.stopping import stop_requests
from sg3.errors import UserError
from sg3.files import check_folder
from sg3.manifest import RunManifest

if TYPE_CHECKING:
    from nada.adaptation import Adaptation
    from nada.adaptation_record import AdaptationRecord, Outcome


@click.command()
@adapt_options
def adapt(
    source, target, target_images, network, clip, outdir, resume, no_stop, device, **settings
) -> None:
    """Fine-tune a network into another domain by text (StyleGAN-NADA).

    Interrupting (Ctrl-C, SIGTERM) writes the result so far; --resume continues.

    \b
    Examples:
      sg3 adapt --source face --target zombie --outdir out/zombie
      sg3 adapt --source face --target sketch --network stylegan3-t-ffhqu-256 \\
        --clip ViT-B-32/openai --clip ViT-B-16/openai --views 4
      sg3 adapt --target-images paintings --layers texture --outdir out/paintings
    """
    # Imported here because they import PyTorch, for which `--help` should not wait.
    from nada.adaptation_record import STATE, STATS, AdaptationRecord
    from nada.state import read_state
    from nada.state import resume as resume_from

    config, record_config = make_configs(settings, no_stop, ",".join(clip))
    need_option(config.layers == "auto", "--layers auto", "auto_k", "auto_every")
    outdir = Path(outdir or f"out/adapt-{slug(target or Path(target_images or '').stem)}")
    check_folder(outdir)
    if not resume and any((outdir / name).exists() for name in (STATE, STATS)):
        raise UserError(
            f"outdir: {outdir} holds a run; --resume continues it, or choose another folder"
        )
    saved = read_state(outdir / STATE) if (outdir / STATE).exists() else None
    goal = {"source": source, "target": target, "target_images": target_images}
    goal |= {"network": network, "clip": ",".join(clip), "device": device}
    arguments = {**goal, "resume": resume, **asdict(config), **asdict(record_config)}
    manifest = RunManifest(outdir, "adapt", arguments)
    with manifest.time("start"):
        adaptation, decisive, meta = _begin(**goal, config=config)
        manifest.add_input(network, meta["adapted_from"]["sha256"])
        if saved is not None:
            resume_from(adaptation, saved, decisive)
    if adaptation.reason is not None:
        click.echo(f"Nothing to do: {adaptation.reason} after {adaptation.index} steps.")
        return
    record = AdaptationRecord(adaptation, outdir, decisive, record_config, meta)
    with stop_requests() as stop:
        with manifest.time("adapt"):
            run(record, stop)
        with manifest.time("write"):
            outcome = record.finish()
    _report(outcome, record, manifest)


def _begin(
    source: str | None,
    target: str | None,
    target_images: str | None,
    network: str,
    clip: str,
    device: str,
    config: AdaptConfig,
) -> tuple[Adaptation, dict[str, Any], dict[str, Any]]:
    """Load everything; return the adaptation, its arguments for the state, and its metadata."""
    from guidance.encoders import load_encoder
    from guidance.generator import generator_of
    from guidance.prompts import Prompt
    from nada.adaptation import Adaptation
    from nada.state import arguments_of
    from nada.target_images import check_target_images, load_target_images
    from sg3.checkpoints import load
    from sg3.checkpoints.delta import weights_hash

    check_files(network)
    if target_images:
        check_target_images(target_images)
    encoder = load_encoder(clip, resolve_device(device))
    nets = load(network, resolve_device(device), **load_options())
    G = generator_of(nets)
    images = None
    if target_images:
        tell = partial(click.echo, err=True)
        images = load_target_images(target_images, encoder.input_size_px, tell)
    adaptation = Adaptation(G, source, target, encoder, images, config)
    warn_of_unread_words(encoder, [Prompt(text) for text in (source, target) if text])
    digest = None if images is None else hashlib.sha256(images.numpy().tobytes()).hexdigest()
    known = {"network": weights_hash(G), "clip": clip, "target_images": digest}
    origin = {k: nets.meta[k] for k in ("name", "source", "sha256", "licence") if k in nets.meta}
    meta = {"source": origin.get("name"), "adapted_from": origin}
    meta |= {"texts": [source, target], "clip": clip}
    meta |= {"licence": origin["licence"]} if "licence" in origin else {}
    return adaptation, arguments_of(adaptation, **known), meta


def make_configs(
    settings: Mapping[str, Any], no_stop: bool, clip: str
) -> tuple[AdaptConfig, RecordConfig]:
    """Build the configurations from the options.

    Args:
        settings: Values by parameter name (see `adapt_options`); None: the recommended value.
        no_stop: Whether --no-stop was given.
        clip: Name of the encoder, on which the recommended values depend.
    """
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("", "record", *PARTS)}
    for name, value in settings.items():
        group, _, field = name.rpartition("__")
        if value is not None:
            groups[group][field] = value
    own, base = groups[""], usual_config(clip)
    if no_stop and groups["stop"]:
        raise UserError("no_stop: got it together with a stop rule; give one of them")
    parts = {
        part: _replaced(part, getattr(base, part) or StopRule(), groups[part]) for part in PARTS
    }
    if no_stop:
        parts["stop"] = None
    record = _replaced("record", RecordConfig(), groups["record"])
    return replace(base, **own, **parts), record


def _replaced(group: str, config: Any, changes: dict[str, Any]) -> Any:
    """Change fields of a part; errors name the parameter of the option, see `adapt_options`."""
    with argument_prefix(f"{group}__"):
        return replace(config, **changes)


def run(record: AdaptationRecord, stop: Callable[[], bool]) -> None:
    """Run the adaptation of `record` to its end, or until `stop` returns True."""
    from tqdm import tqdm

    adaptation, shown = record.adaptation, {}
    total = adaptation.config.steps + 1
    with tqdm(total=total, initial=adaptation.index + 1, disable=None, unit="step") as bar:
        for step in adaptation:
            record.add(step)
            if step.check is not None:
                shown = {k: f"{v:.2f}" for k, v in asdict(step.check).items() if k != "index"}
            bar.set_postfix(loss=f"{step.loss:.3f}", **shown)
            bar.update()
            if stop():
                break


def _report(outcome: Outcome, record: AdaptationRecord, manifest: RunManifest) -> None:
    """Print the outcome and the files, and write the manifest."""
    check, change = outcome.check, outcome.spectrum
    seconds = manifest.timings["adapt"]
    ended, steps = outcome.reason, record.adaptation.config.steps
    click.echo(
        f"{ended[0].upper()}{ended[1:]}: {outcome.index} steps in {seconds:.1f} s"
        if ended
        else f"Stopped after step {outcome.index} of {steps}, {seconds:.1f} s; repeat the command "
        "with --resume to continue"
    )
    click.echo(
        f"agreement {check.agreement:.3f}   length {check.length:.3f}   "
        f"diversity {check.diversity:.3f}"
    )
    click.echo(
        f"power relative to the source: top octave {change.top_octave:+.1f} dB, near Nyquist "
        f"{change.axes:+.1f} dB along the axes, {change.diagonal:+.1f} dB on the diagonal"
    )
    size_kb = (record.outdir / "delta.safetensors").stat().st_size / 1000
    click.echo(f"delta: {size_kb:.0f} kB, keeps {100 * outcome.kept:.1f} % of the weight change")
    if change.advice:
        click.echo(f"Note: {change.advice}")
    manifest.results |= {"steps": outcome.index, "reason": ended, **asdict(check)}
    manifest.results |= {"spectrum_db": asdict(change), "delta_keeps": outcome.kept}
    for path in record.paths:
        manifest.add_output(path)
    manifest.write(finished=ended is not None)
    for path in [*record.paths, manifest.path]:
        click.echo(path.resolve())
