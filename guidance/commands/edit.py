"""`sg3 edit`: a thin drain on `guidance.directions`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import click

from guidance.commands.edit_options import edit_options
from sg3.cli.options import resolve_device, with_deltas
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import check_folder, prepare_folder
from sg3.manifest import RunManifest


@click.command()
@edit_options
def edit(network, deltas, latent, seeds, device, outdir, sheet, video, **options) -> None:
    """Move a latent along directions: texts, components, labels, files.

    The first text for a network and an encoder takes minutes (seconds for mini-faces, whose
    statistics are bundled); what was found out is kept.

    \b
    Examples:
      sg3 edit --seed 3 --direction "a smiling face" --alpha -4..4 --beta 0.12
      sg3 edit --latent out/latent.safetensors --direction pca:2 --sheet out.png --video out.mp4
      sg3 edit --seeds 0-3 --mix 7:L3-L6 --direction "red hair" --direction sefa:1 --alpha 0..3
    """
    import sg3  # torch is imported only now: `--help` is quick
    from guidance.directions import write_latent
    from guidance.directions.sweeps import write_sheet, write_video

    specs, alphas = _specs(options)
    if (latent is None) == (seeds is None):
        raise UserError("seed: give either --latent or --seed")
    outdir, sheet, video = _paths(outdir, sheet, video, specs)
    manifest = RunManifest(outdir, "edit", click.get_current_context().params)
    with manifest.time("load"):
        nets = sg3.load(network, resolve_device(device))
        if nets.G_ema is None:
            raise UserError(f"network: {network} holds no generator")
        G = with_deltas(nets.G_ema, deltas)
        start = _start(G, latent, seeds, nets.meta["sha256"], options)
    manifest.add_input(network, nets.meta["sha256"])
    files = [spec.value for spec in specs if spec.kind == "file"]
    for path in [*(path for path, _ in deltas), *([latent] if latent else []), *files]:
        manifest.add_input(path)
    try:
        with manifest.time("directions"):
            known = G if options["own_statistics"] else nets.G_ema
            directions = _directions(G, specs, options, known)
    except KeyboardInterrupt:
        click.echo("Stopped; the same command goes on from here.", err=True)
        sys.exit(INTERRUPTED)
    edits = [(d, *ends) for d, ends in zip(directions, alphas, strict=True)]
    for folder in {path.parent for path in (outdir / "run.json", sheet, video) if path}:
        prepare_folder(folder)
    with manifest.time("render"):
        end = write_sheet(sheet, G, start, edits, options["columns"])
        latent_path = outdir / "latent.safetensors"
        write_latent(latent_path, end.latent.folded(G), _origin(network, nets.meta, deltas))
        if video:
            write_video(video, G, start, edits, options["frames"])
    saved = _save_directions(G, directions, outdir) if options["save_directions"] else []
    for path in [sheet, latent_path, *([video] if video else []), *saved]:
        manifest.add_output(path)
    manifest.results["directions"] = [
        {"name": d.name, "alpha": ends, **d.info} for d, *ends in edits
    ]
    for path in [*manifest.outputs, manifest.write().name]:
        click.echo((outdir / path).resolve())


def _origin(network: str, meta, deltas) -> dict[str, str]:
    """What a latent file says about its network."""
    origin = {"network": network, "network_sha256": meta["sha256"]}
    return origin | ({"deltas": json.dumps(deltas)} if deltas else {})


def _specs(options):
    """What is asked for: specs of directions, and one range of alphas for each."""
    from guidance.directions.spec import parse_direction

    texts = options["directions"]
    if not texts and not options["mixes"] and options["centres"] is None:
        raise UserError("direction: got none; give --direction, --mix or --centres")
    each = [
        _one_each(name, options[f"{name}s"], len(texts)) for name in ("neutral", "beta", "alpha")
    ]
    specs = [parse_direction(*of) for of in zip(texts, *each[:2], strict=True)]
    return specs, each[2]


def _one_each(name: str, values, count: int):
    if len(values) not in (1, count):
        raise UserError(f"{name}: got {len(values)} for {count} directions; give one, or {count}")
    return list(values) * count if len(values) == 1 else list(values)


def _paths(outdir, sheet, video, specs) -> tuple[Path, Path, Path | None]:
    """Where everything goes; all of it can be written."""
    from guidance.commands.steer import slug

    if not outdir:
        name = f"edit-{slug(specs[0].value if specs else 'mix')}"
        outdir = Path(sheet).parent if sheet else Path("out") / name
    outdir, video = Path(outdir), Path(video) if video else None
    sheet = Path(sheet) if sheet else outdir / "sheet.png"
    if sheet.suffix.lower() != ".png":
        raise UserError(f"sheet: got {str(sheet)!r}, expected a name ending in .png")
    if video and video.suffix.lower() != ".mp4":
        raise UserError(f"video: got {str(video)!r}, expected a name ending in .mp4")
    for path in (outdir, sheet.parent, (video or sheet).parent):
        check_folder(path)
    return outdir, sheet, video


def _start(G, latent, seeds, sha256, options):
    """The latent before the edits."""
    import torch

    from guidance.directions import EditedLatent, centres_of, mix_styles, read_latent, truncate
    from guidance.latents import map_latents, seed_latents
    from guidance.style_space import rows_of_layers

    class_index = options["class_index"]
    if not math.isfinite(options["psi"]):
        raise UserError(f"trunc: got {options['psi']}, expected a finite number such as 0.7")

    def of_seed(seed: int) -> torch.Tensor:
        return map_latents(G, seed_latents(seed, 1, G.z_dim), class_index)

    if latent is not None:
        start = read_latent(latent, G, sha256, options["force"])
    else:
        start = EditedLatent(torch.cat([of_seed(seed) for seed in seeds]))
    ws = start.ws
    for seed, layers in options["mixes"]:
        ws = mix_styles(ws, of_seed(seed), rows_of_layers(G, layers))
    count = options["centres"]
    centres = G.mapping.w_avg[None] if count is None else centres_of(G, count, 0, class_index)
    return EditedLatent(truncate(ws, centres, options["psi"]), start.styles)


def _directions(G, specs, options, known):
    """What `specs` say; `known` is the network whose style space is looked at."""
    from guidance.commands.steer import warn_of_unknown_words
    from guidance.directions.spec import make_directions
    from guidance.encoders import load_encoder
    from guidance.prompts import Prompt
    from guidance.style_space import rows_of_layers

    rows = rows_of_layers(G, options["layers"]) if options["layers"] else None
    encoder = None
    if any(spec.reads_text for spec in specs):
        encoder = load_encoder(options["clip"], next(G.parameters()).device)
        texts = [text for s in specs if s.reads_text for text in (s.value, s.neutral)]
        warn_of_unknown_words(encoder, [Prompt(text) for text in texts])
    return make_directions(
        G,
        specs,
        encoder,
        lambda: _relevance(known, encoder, options),
        rows,
        options["templates"],
        options["class_index"],
        options["force"],
    )


def _relevance(G, encoder, options):
    """The statistics of style space, with a bar while they are computed; each latent is kept.

    Raises KeyboardInterrupt after the latent in which the user asked to stop.
    """
    from tqdm import tqdm

    from guidance.directions import RelevanceConfig, relevance_with_cache

    names = ("images", "class_index")
    config = RelevanceConfig(**{k: options[k] for k in names if options[k] is not None})
    bar = tqdm(total=config.images, disable=None, unit="img", desc="style space")
    with bar, stop_requests("finishing this latent …\n") as stop:
        for state in relevance_with_cache(G, encoder, config):
            bar.update(state.images - bar.n)
            bar.set_postfix(agreement=f"{state.agreement():.2f}")
            if stop() and state.images < state.total:
                raise KeyboardInterrupt
    return state


def _save_directions(G, directions, outdir: Path) -> list[Path]:
    from guidance.directions import write_direction
    from sg3.checkpoints.delta import weights_hash

    weights, paths = weights_hash(G), []
    for number, direction in enumerate(directions, 1):
        paths.append(outdir / f"direction-{number}.safetensors")
        write_direction(paths[-1], direction, weights)
    return paths
