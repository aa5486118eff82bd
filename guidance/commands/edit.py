"""`sg3 edit`: command line of `guidance.directions`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guidance.commands.common import LoadedNetwork, load_network, slug, warn_of_unread_words
from guidance.commands.edit_options import edit_options
from guidance.directions.config import RelevanceConfig
from sg3.cli.options import allows_nonfinite, check_files, need_option, resolve_device
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import check_folder, prepare_folder
from sg3.manifest import RunManifest

if TYPE_CHECKING:  # torch is imported when the command runs: `--help` is quick
    import torch

    from guidance.directions import Direction, Relevance
    from guidance.directions.spec import DirectionSpec
    from guidance.encoders import Encoder
    from guidance.render import EditedLatent
    from sg3.networks.generator import MappedGenerator


@click.command()
@edit_options
def edit(network, deltas, latent, seeds, device, outdir, sheet, video, **options) -> None:
    """Move a latent along directions: texts, components, labels, files.

    The first text for a network and an encoder takes minutes (seconds for mini-faces, whose
    statistics are bundled); the statistics are cached.

    \b
    Examples:
      sg3 edit --seed 3 --direction "a smiling face" --alpha -4..4 --beta 0.2 --outdir out/smile
      sg3 edit --latent out/smile/latent.safetensors --direction pca:2 --video out/pca.mp4
      sg3 edit --seeds 0-3 --mix 7:L3-L5 --direction "red hair" --direction sefa:1 --alpha 0..3
    """
    from guidance.directions.sweeps import write_sheet, write_video
    from guidance.latent_files import write_latent

    specs, alphas = _specs(options)
    if latent is None and seeds is None:
        raise UserError("give --seed or --latent to start from")
    if latent is not None and seeds is not None:
        raise UserError("--seed: got it together with --latent; give one of them")
    need_option(video is not None, "--video", "frames")
    outdir, sheet, video = _paths(outdir, sheet, video, specs)
    check_files(network, latent=latent)
    manifest = RunManifest(outdir, "edit", click.get_current_context().params)
    with manifest.time("load"):
        loaded = load_network(network, resolve_device(device), deltas)
        start = _start(loaded, latent, seeds, options)
    manifest.add_input(network, loaded.sha256)
    files = [spec.value for spec in specs if spec.kind == "file"]
    for path in [*(path for path, _ in deltas), *([latent] if latent else []), *files]:
        manifest.add_input(path)
    try:
        with manifest.time("directions"):
            directions = _directions(loaded, specs, options)
    except KeyboardInterrupt:
        click.echo("Stopped; run the same command again to continue.", err=True)
        sys.exit(INTERRUPTED)
    edits = [(d, *ends) for d, ends in zip(directions, alphas, strict=True)]
    for folder in {path.parent for path in (outdir / "run.json", sheet, video) if path}:
        prepare_folder(folder)
    with manifest.time("render"):
        end = write_sheet(sheet, loaded.G, start, edits, options["columns"])
        latent_path = outdir / "latent.safetensors"
        write_latent(latent_path, end.latent.folded(loaded.G), loaded.origin)
        if video:
            write_video(video, loaded.G, start, edits, options["frames"])
    saved = _save_directions(loaded.G, directions, outdir) if options["save_directions"] else []
    for path in [sheet, latent_path, *([video] if video else []), *saved]:
        manifest.add_output(path)
    manifest.results["directions"] = [
        {"name": d.name, "alpha": ends, **d.info} for d, *ends in edits
    ]
    for path in [*manifest.outputs, manifest.write().name]:
        click.echo((outdir / path).resolve())


def _specs(
    options: Mapping[str, Any],
) -> tuple[list[DirectionSpec], list[tuple[float, float]]]:
    """Specifications of the directions, and a range of alphas for each."""
    from guidance.directions.spec import parse_direction

    texts = options["directions"]
    if not texts and not options["mixes"] and options["centres"] is None:
        raise UserError("--direction: got none; give --direction, --mix or --centres")
    neutrals, betas, alphas = (
        _one_each(name, options[f"{name}s"], len(texts)) for name in ("neutral", "beta", "alpha")
    )
    specs = [parse_direction(*each) for each in zip(texts, neutrals, betas, strict=True)]
    return specs, alphas


def _one_each(name: str, values: Sequence, count: int) -> list:
    """One value per direction. Raises ValueError unless there are one or `count`."""
    if len(values) not in (1, count):
        raise UserError(
            f"--{name}: got {len(values)} for {count} directions; give it once or {count} times"
        )
    return list(values) * count if len(values) == 1 else list(values)


def _paths(
    outdir: str | None, sheet: str | None, video: str | None, specs: Sequence[DirectionSpec]
) -> tuple[Path, Path, Path | None]:
    """Folder, sheet and video. Raises ValueError for paths that cannot be written."""
    if not outdir:
        name = f"edit-{slug(specs[0].value if specs else 'mix')}"
        outdir = str(Path(sheet).parent) if sheet else f"out/{name}"
    folder, movie = Path(outdir), Path(video) if video else None
    image = Path(sheet) if sheet else folder / "sheet.png"
    if image.suffix.lower() != ".png":
        raise UserError(f"--sheet: got {str(image)!r}, expected a name ending in .png")
    if movie and movie.suffix.lower() != ".mp4":
        raise UserError(f"--video: got {str(movie)!r}, expected a name ending in .mp4")
    for path in (folder, image.parent, (movie or image).parent):
        check_folder(path)
    return folder, image, movie


def _start(
    loaded: LoadedNetwork,
    latent: str | None,
    seeds: Sequence[int] | None,
    options: Mapping[str, Any],
) -> EditedLatent:
    """The latents before the edits: from a file or seeds, mixed and truncated."""
    import torch

    from guidance.directions import centres_of, mix_styles, truncate
    from guidance.latent_files import read_latent
    from guidance.latents import map_latents, seed_latents
    from guidance.render import EditedLatent
    from guidance.style_space import rows_of_layers

    G, class_index = loaded.G, options["class_index"]

    def of_seed(seed: int) -> torch.Tensor:
        return map_latents(G, seed_latents(seed, 1, G.z_dim), class_index)

    if latent is not None:
        start = read_latent(latent, G, loaded.sha256, options["force"], allows_nonfinite())
    else:
        start = EditedLatent(torch.cat([of_seed(seed) for seed in seeds or ()]))
    ws = start.ws
    for seed, layers in options["mixes"]:
        ws = mix_styles(ws, of_seed(seed), rows_of_layers(G, layers))
    count = options["centres"]
    centres = (
        G.mapping.get_buffer("w_avg")[None]
        if count is None
        else centres_of(G, count, 0, class_index)
    )
    return EditedLatent(truncate(ws, centres, options["psi"]), start.styles)


def _directions(
    loaded: LoadedNetwork, specs: Sequence[DirectionSpec], options: Mapping[str, Any]
) -> list[Direction]:
    """The directions of `specs`."""
    from guidance.directions.spec import make_directions
    from guidance.encoders import load_encoder
    from guidance.prompts import Prompt
    from guidance.style_space import rows_of_layers

    G = loaded.G
    rows = rows_of_layers(G, options["layers"]) if options["layers"] else None
    known = G if options["own_statistics"] else loaded.source
    encoder: Encoder | None = None
    if any(spec.reads_text for spec in specs):
        encoder = load_encoder(options["clip"], next(G.parameters()).device)
        texts = [text for s in specs if s.reads_text for text in (s.value, s.neutral)]
        warn_of_unread_words(encoder, [Prompt(text) for text in texts])
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


def _relevance(
    G: MappedGenerator, encoder: Encoder | None, options: Mapping[str, Any]
) -> Relevance:
    """Statistics of style space, computed with a progress bar; every latent is cached.

    Raises KeyboardInterrupt after the latent during which the user asked to stop.
    """
    from tqdm import tqdm

    from guidance.directions import relevance_with_cache

    assert encoder is not None, "texts come with an encoder"
    config = RelevanceConfig(images=options["images"], class_index=options["class_index"])
    bar = tqdm(total=config.images, disable=None, unit="img", desc="style space")
    with bar, stop_requests("finishing this latent ...\n") as stop:
        for state in relevance_with_cache(G, encoder, config):
            bar.update(state.images - bar.n)
            bar.set_postfix(agreement=f"{state.agreement():.2f}")
            if stop() and state.images < state.total:
                raise KeyboardInterrupt
    return state


def _save_directions(
    G: MappedGenerator, directions: Sequence[Direction], outdir: Path
) -> list[Path]:
    from guidance.directions import write_direction
    from sg3.checkpoints.delta import weights_hash

    weights, paths = weights_hash(G), []
    for number, direction in enumerate(directions, 1):
        paths.append(outdir / f"direction-{number}.safetensors")
        write_direction(paths[-1], direction, weights)
    return paths
