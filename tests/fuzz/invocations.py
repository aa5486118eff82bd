"""Wrong invocations of `sg3`: every option with every wrong value, in this process.

    PYTHONPATH=. python tests/fuzz/invocations.py              # all of them
    PYTHONPATH=. python tests/fuzz/invocations.py --sample 150 # some, the same each time

Each must end with exit code 2 and one line, within 5 s of CPU and 2 GB, and leave no files. Values
that may be right, -1 and 0, may also be accepted. Networks and encoders are not loaded: that point
is where an accepted invocation ends, and where no wrong one may come.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest import mock

import click
import numpy as np
from click.testing import CliRunner
from PIL import Image

from sg3.cli.main import cli

SECONDS, MEMORY = 5, 2 << 30
#: The shortest right invocation of each command.
BASES = {
    "generate": "--seeds 0 --outdir out",
    "video": "--output v.mp4",
    "steer": "'a hat' --outdir out",
    "edit": "--direction sefa:0 --outdir out",
    "project": "photo.png --outdir out",
    "adapt": "--source face --target zombie --outdir out",
    "train": "--outdir out --cfg stylegan3-t --data data.zip --gpus 1 --batch 4 --gamma 1",
    "ema": "run --length 0.1",
    "plan": "--cfg stylegan3-t --resolution 16 --batch 4",
    "dataset": "--source data.zip --dest out.zip",
    "metrics": "--metrics fid50k_full --data data.zip",
    "spectra": "--data data.zip --output s.svg",
    "inspect": "--output i.png",
    "delta apply": "--delta zombie --output a.safetensors",
    "delta info": "zombie",
    "delta make": "--source mini-faces --adapted mini-faces --output a.safetensors",
    "delta merge": "zombie --output a.safetensors",
    "delta video": "--delta zombie --output v.mp4",
    "blend": "mini-faces mini-faces --split L3 --output b.safetensors",
    "convert": "mini-faces c.safetensors",
    "export": "mini-faces --format onnx --output e.onnx",
    "push": "run me/cats --dry-run",
    "models": "",
    "models get": "mini-faces",
    "doctor": "",
    "app": "",
}
LAYERS = ("inspect", "--layers")  # names that only a loaded network knows
NUMBERS = ["nan", "inf", "-inf", "1e400", "1000000000000", "abc", "", "0x10", "1,5", "--"]
MAYBE = ["-1", "0"]
TEXTS = ["", "x" * 20_000]
FILES = ["", "missing.bin", "folder", "text.txt", "x" * 20_000]


class Accepted(BaseException):
    """The invocation came to the point where networks are loaded."""


@dataclass(frozen=True)
class Invocation:
    """A command line, and whether it may also be accepted."""

    arguments: tuple[str, ...]
    maybe: bool = False

    def __str__(self) -> str:
        return shlex.join(a if len(a) < 50 else f"{a[:20]}…({len(a)})" for a in self.arguments)


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands by their full name."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
            if not command.invoke_without_command:
                continue
        yield f"{prefix}{name}", command


def invocations() -> list[Invocation]:
    """Return all wrong invocations."""
    found: list[Invocation] = []
    for name, command in commands(cli):
        base = tuple(name.split()) + tuple(shlex.split(BASES[name]))
        found.append(Invocation((*base, "--no-such-option")))
        found.append(Invocation((*base, "one", "two", "three"), name == "steer"))
        for param in command.params:
            if not isinstance(param, click.Option):
                found += [Invocation(line) for line in _arguments(base, name)]
                continue
            option = next((o for o in param.opts if o.startswith("--")), param.opts[0])
            if option in ("--help", "--debug"):
                continue
            found.append(Invocation((*base, f"{option[:-1]}{option[-1]}q", "1")))
            if param.is_flag or isinstance(param.type, click.types.BoolParamType):
                found.append(Invocation((*base, f"{option}=5")))
                continue
            if "" not in (param.flag_value, param.default) and not param._flag_needs_value:
                found.append(Invocation((*base, option)))
            wrong = () if (name, option) == LAYERS else _wrong(param)
            found += [Invocation((*base, option, value)) for value in wrong]
            if _is_number(param):
                found += [Invocation((*base, option, value), True) for value in MAYBE]
    return found


def _arguments(base: tuple[str, ...], name: str) -> list[tuple[str, ...]]:
    words = len(name.split())
    first = base[words] if len(base) > words else ""
    if not first or first.startswith("-"):
        return []
    rest = base[words + 1 :]
    return [(*base[:words], *rest)] + [
        (*base[:words], value, *rest) for value in (TEXTS if name == "steer" else FILES[:3])
    ]


def _is_number(param: click.Parameter) -> bool:
    return isinstance(param.type, (click.types.IntParamType, click.types.FloatParamType))


def _wrong(param: click.Option) -> list[str]:
    if _is_number(param):
        return NUMBERS
    if isinstance(param.type, click.Choice):
        return ["", "abc", "-1", "0.5x"]
    if isinstance(param.type, click.Path):
        reads = param.type.exists or param.name in ("latent", "target_images", "landmarks")
        return FILES if reads else TEXTS
    if isinstance(param.type, click.types.StringParamType):
        named = param.name in ("network", "networks", "adapted", "a", "b", "latent", "resume")
        return FILES if named else TEXTS
    empty = [] if "" in (param.flag_value, param.default) else [""]
    return [*empty, "nan", "inf,inf", "1e999", "abc:def,", "x" * 20_000, "99999999999999999999"]


# Running -----------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write the files that the invocations name."""
    for name in ("folder", "run"):
        (folder / name).mkdir()
    (folder / "text.txt").write_text("just a text\n")
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, [16, 16, 3], np.uint8))
    image.save(folder / "photo.png")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for i in range(8):
            archive.writestr(f"{i}.png", (folder / "photo.png").read_bytes())


@contextlib.contextmanager
def nothing_heavy() -> Iterator[None]:
    """Within the block, whatever would load a network or start work raises Accepted."""
    # By module: the package's attribute of this name is the function.
    loading = importlib.import_module("sg3.checkpoints.load")
    usual = loading.locate

    def locate(source, *args):
        if str(source) == "mini-faces":
            raise Accepted
        return usual(source, *args)

    def accepted(*_, **__):
        raise Accepted

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(loading, "locate", locate))
        for target in (
            "guidance.encoders.mini.MiniEncoder.load",
            "sg3.training.trainer.Trainer.__init__",
            "sg3.training.plan.plan",
            "sg3.distributed.processes.spawn",
            "sg3.checkpoints.delta_file.safe_open",
        ):
            with contextlib.suppress(AttributeError, ImportError):
                stack.enter_context(mock.patch(target, accepted))
        yield


def _too_slow(*_: object) -> None:
    raise TimeoutError("more than 5 s of CPU")


def try_one(invocation: Invocation) -> str | None:
    """Return what is wrong with how an invocation ends; None if nothing is."""
    before = _listing()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    start = time.process_time()
    try:
        result = CliRunner().invoke(cli, list(invocation.arguments))
    except Accepted:
        return None if invocation.maybe else "accepted"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - start
    if invocation.maybe and result.exit_code == 0:
        return None
    if result.exit_code != 2:
        return f"exit code {result.exit_code}: {result.exception!r}"[:200]
    text = "".join(line for line in result.output.splitlines(True) if not line.startswith("Note:"))
    if not text.startswith("Error: ") or text.count("\n") != 1 or len(text) > 3000:
        return f"not one line: {text[:200]!r}"
    if seconds > SECONDS:
        return f"{seconds:.1f} s"
    written = _listing() - before
    return f"wrote {', '.join(sorted(written))[:80]}" if written else None


def _listing() -> set[str]:
    return {str(path) for path in Path(".").rglob("*")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, help="try so many (default all)")
    parser.add_argument("--only", default="", help="only command lines that contain this text")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [each for each in invocations() if args.only in str(each)]
    if args.sample:
        chosen = Random(0).sample(chosen, args.sample)
    signal.signal(signal.SIGVTALRM, _too_slow)
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sg3-invocations-") as folder, nothing_heavy():
        os.chdir(folder)
        prepare(Path())
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.getrlimit(9)[1]))
        for invocation in chosen:
            command = invocation.arguments[0]
            tried[command] += 1
            if (flaw := try_one(invocation)) is not None:
                failed[command] += 1
                print(f"sg3 {invocation}: {flaw}", flush=True)
                for path in set(Path().iterdir()) - {Path(n) for n in KEPT}:
                    _remove(path)
        os.chdir("/")
    print(f"tried {sum(tried.values()):,} command lines of {len(tried)} commands, "
          f"{sum(failed.values())} violations")  # fmt: skip
    return 1 if failed else 0


KEPT = ("folder", "run", "text.txt", "photo.png", "data.zip")


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
