"""Help texts of all commands: every option is documented, every example runs.

Examples run in order in an empty folder, one folder per command. Where one reads a file that it
does not bring (a dataset, a photo, a network), a small stand-in of that name is created first.
Examples that need a download, a GPU or minutes are parsed with all their options, but not run.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import program
import pytest
import repository
import torch
from PIL import Image
from safetensors.torch import save_file

import sg3
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.checkpoints.registry import REGISTRY
from sg3.cli.main import COMMANDS, cli
from sg3.cli.parsers import DELTAS

#: Appended to examples, so that they take seconds. Of an option given twice, the last one counts.
QUICK = {
    "adapt": "--steps 1 --batch 1 --no-video",
    "delta video": "--frames 2",
    "edit": "--images 8 --frames 2",
    "inspect": "--frames 2 --size 32",
    "project": "--steps 1 --tune 1 --candidates 4 --no-video",
    "spectra": "--num 2",
    "steer": "--steps 1 --candidates 4 --generations 0 --no-video",
    "video": "--w-frames 1",
}
#: The same for options that only some examples of a command have.
QUICK_VALUES = {"--dissolve": "2"}
#: Examples that contain one of these are parsed only.
HEAVY = {
    "--gpus": "several GPUs",
    "torchrun": "several processes",
    "--measure": "a measurement of minutes",
    "fid2k_full": "thousands of images",
    "app": "a server",
    "get": "a download",
    **{name: "a download" for name, entry in REGISTRY.items() if entry.bundled is None},
}


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands and sub-commands with their full names."""
    context = click.Context(cli)
    todo: list[tuple[str, click.Command | None]] = [("", cli)]
    todo += [(name, cli.get_command(context, name)) for name in COMMANDS]
    for name, command in todo:  # grows while it is read
        assert command is not None
        if command is not cli and isinstance(command, click.Group):
            todo += [(f"{name} {sub}", found) for sub, found in command.commands.items()]
        yield name, command


def flaws(option: click.Option, context: click.Context) -> Iterator[str]:
    """What the help of an option lacks."""
    if not (option.help or "").strip():
        yield "no help text"
    silent = option.is_flag or option.multiple or option.required or option.count
    if not silent and not option.get_help_extra(context).get("default"):
        yield "neither a default nor what leaving it out does"


def test_every_option_has_a_help_text_and_shows_its_default():
    found = []
    for name, command in commands():
        context = click.Context(command)
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                label = f"sg3 {name} {param.opts[0]}"
                found += [f"{label}: {flaw}" for flaw in flaws(param, context)]
    assert not found, f"{len(found)} options:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("declaration", "flaw"),
    [
        ({"default": 3}, "no help text"),
        ({"default": 3, "help": "Steps."}, "neither"),  # the default is not shown
        ({"help": "Steps.", "show_default": True}, "neither"),
    ],
)
def test_an_undocumented_option_is_found(declaration, flaw):
    option = click.Option(["--steps"], **declaration)
    found = list(flaws(option, click.Context(click.Command("c"))))
    assert any(flaw in text for text in found)
    documented = click.Option(["--steps"], default=3, show_default=True, help="Steps.")
    assert not list(flaws(documented, click.Context(click.Command("c"))))


def test_every_command_has_an_example():
    lacking = [name for name, command in commands() if not examples(command)]
    assert not lacking, f"commands without an example: {', '.join(lacking)}"


def examples(command: click.Command) -> list[str]:
    """The example lines of a help text, continued lines joined."""
    found = re.search(r"^\s*Examples?:\n(.*?)(\n\s*\n|\Z)", command.help or "", re.DOTALL | re.M)
    text = re.sub(r"\\\n\s*", "", found[1]) if found else ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def arguments_of(example: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of `sg3`; variables before it are set."""
    words = shlex.split(example)
    if words[0] == "torchrun":
        words = words[words.index("sg3") :]
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    assert words[0] == "sg3", example
    return words[1:]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """Small files of the kinds that examples read."""
    folder = tmp_path_factory.mktemp("stand-ins")
    nets = sg3.load("mini-faces")
    G, delta = nets.G_ema, DELTAS / "zombie.safetensors"
    shutil.copy(delta, folder / "delta.safetensors")
    adapted = apply_deltas(G, [(load_delta(delta), 1.0)])
    sg3.save(sg3.Networks(G_ema=adapted), folder / "network.safetensors")
    shutil.copy(repository.GOLDEN / "official-sg3t-32.pkl", folder / "network.pkl")
    peer = repository.ROOT / "tests" / "peerfiles" / "rosi-convert_weight.pt"
    shutil.copy(peer, folder / "rosinality.pt")
    stylegan2 = sg3.load(repository.GOLDEN / "official-sg2-32.pkl").G_ema
    torch.save(stylegan2.state_dict(), folder / "G_ema.pt")
    ws = G.mapping(torch.randn([1, G.z_dim], generator=torch.Generator().manual_seed(0)))
    save_file({"ws": ws}, folder / "latent.safetensors")
    (folder / "images").mkdir()
    for result in sg3.generate_images(G, range(4)):
        Image.fromarray(result.image).save(folder / "images" / f"{result.name}.png")
    Image.fromarray(result.image).save(folder / "image.jpg")
    program.works("dataset", "--source", folder / "images", "--dest", folder / "images.zip")
    sizes = "--batch 2 --mbstd-group 2 --cbase 64 --cmax 4 --z-dim 4 --w-dim 4 --num-layers 4 --grid 2x2"
    program.works(
        *f"train --cfg stylegan3-t {sizes} --kimg 0.004 --posthoc-ema --workers 0".split(),
        *("--data", folder / "images.zip", "--outdir", folder / "runs"),
    )
    next((folder / "runs").iterdir()).rename(folder / "run")
    return folder


#: Names of files that examples read, as patterns, and what stands in for them.
FILES = {
    r".*latent\.safetensors": "latent.safetensors",
    r".*(delta|zombie|sketch)\.safetensors": "delta.safetensors",
    r".*\.safetensors": "network.safetensors",
    r".*\.pkl": "network.pkl",
    r"\d+\.pt": "rosinality.pt",
    r"G_ema\.pt": "G_ema.pt",
    r".*\.(jpg|png)": "image.jpg",
    r".*\.zip": "images.zip",
    r"photos|paintings|images": "images",
    r"runs/.*": "run",
}
#: Options whose values are files to write.
OUTPUTS = ("--out", "--outdir", "--output", "--dest", "--sheet", "--video", "--json")


def provide_files(arguments: list[str], stand_ins: Path) -> None:
    """Create what an example reads and no example before it has written."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before in OUTPUTS:
            continue
        # A strength may follow the name: FILE:0.7.
        name = word if not Path(word).suffix or ":" not in word else word.rpartition(":")[0]
        stand_in = next((v for k, v in FILES.items() if re.fullmatch(k, name)), None)
        if stand_in is None or Path(name).exists():
            continue
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        source = stand_ins / stand_in
        (shutil.copytree if source.is_dir() else shutil.copy)(source, name)


def is_heavy(example: str) -> bool:
    """Whether an example is only parsed."""
    words = shlex.split(example)
    models = [word for before, word in itertools.pairwise(words) if before == "--clip"]
    return any(word in HEAVY for part in words for word in part.split(",")) or any(
        "/" in model for model in models
    )


def leaf(arguments: list[str]) -> tuple[str, click.Command]:
    """The command that runs with these arguments, and its full name."""
    name, command = arguments[0], cli.get_command(click.Context(cli), arguments[0])
    assert command is not None
    if isinstance(command, click.Group) and len(arguments) > 1:
        name, command = f"{name} {arguments[1]}", command.commands[arguments[1]]
    return name, command


@pytest.mark.slow
@pytest.mark.parametrize("top", list(COMMANDS))
def test_every_example_runs(top, stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [examples(command) for name, command in commands() if name.split()[:1] == [top]]
    for example in itertools.chain(*found):
        with monkeypatch.context() as patch:
            arguments = arguments_of(example, patch)
            provide_files(arguments, stand_ins)
            name, command = leaf(arguments)
            if is_heavy(example):
                patch.setattr(command, "callback", lambda *args, **kwargs: None)
            else:
                arguments += shlex.split(QUICK.get(name, ""))
                for option, value in QUICK_VALUES.items():
                    arguments += [option, value] if option in arguments else []
            result = program.run(*arguments)
            assert result.exit_code == 0, f"{example}\n{result.output}\n{result.exc_info}"


def test_a_misspelt_option_in_a_heavy_example_fails(monkeypatch):
    example = "sg3 train --cfg stylegan3-t --data faces.zip --gpsu 8 --gpus 8 --outdir runs"
    _, command = leaf(["train"])
    monkeypatch.setattr(command, "callback", lambda **kwargs: None)
    result = program.run(*shlex.split(example)[1:])
    assert is_heavy(example) and result.exit_code == 2 and "--gpsu" in result.output
