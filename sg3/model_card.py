"""The model card of a network: README.md of its repository on the hub, made from its run."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3.checkpoints.hub_files import SCHEME
from sg3.checkpoints.networks import Networks

#: A card with this line is ours to replace; one without it has been written by a person.
MARK = "<!-- written by `sg3 push`; delete this line to keep your changes -->"
#: Names of licences in our files, and on the hub.
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
#: Entries of a network's record that the card's table shows, with their titles.
FACTS = {
    "cfg": "configuration",
    "data": "data",
    "kimg": "trained for (thousand images)",
    "batch": "batch",
    "gamma": "R1 weight (gamma)",
    "loss": "loss",
    "started_from": "started from",
    "source": "adapted from",
    "seed": "seed",
    "note": "note",
}
#: Options in the command of a training run, with the fields of its configuration.
OPTIONS = ("cfg", "data", "batch", "gamma", "kimg", "aug", "mirror", "resume", "seed")


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        repo: `OWNER/NAME`.
        file: file name of the network in the repository.
        licence: of the weights, as the hub spells it or in words.
        data: what the network was trained on; None: what its record says.
        images: file names of pictures in the repository, with a line about each.
        run: folder of the run; None: only the file is known.
        snapshot: name of the snapshot whose metrics are shown.
    """

    repo: str
    file: str
    licence: str
    data: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    run: Path | None = None
    snapshot: str = ""


def make_card(card: Card, networks: Networks) -> str:
    """Return the text of README.md: metadata for the hub, then what is known of the network."""
    meta, G = networks.meta, networks.G_ema
    assert G is not None
    address = f"{SCHEME}{card.repo}/{card.file}"
    kind = {"stylegan3": "StyleGAN3", "stylegan2": "StyleGAN2"}.get(G.kind, G.kind)
    facts = {title: meta[key] for key, title in FACTS.items() if meta.get(key) not in (None, "")}
    if card.data:
        facts["data"] = card.data
    facts = {"image": _image_size(G), "parameters of G": _count(G), **facts}
    sections = [
        _front_matter(card, G.kind),
        MARK,
        f"# {card.repo.split('/')[1]}",
        f"A {kind} generator, made with sg3.",
        *(f"![{text}]({name})\n\n*{text}*" for name, text in card.images.items()),
        "## Use",
        f"```sh\nsg3 generate --network {address} --seeds 0-7 --outdir out\n```",
        f'```python\nimport sg3\n\nnets = sg3.load("{address}")\n```',
        "## Network",
        _table(("", ""), [(title, _brief(value)) for title, value in facts.items()]),
    ]
    if metrics := read_metrics(card.run, card.snapshot) if card.run else []:
        sections += ["## Metrics", _table(("metric", "value", "of"), metrics)]
    if command := read_command(card.run, meta):
        sections += ["## Command", f"```sh\n{command}\n```"]
    sections += ["## Licence", f"Weights: {card.licence}."]
    return "\n\n".join(sections) + "\n"


def _front_matter(card: Card, kind: str) -> str:
    """Return the metadata; JSON strings are YAML too."""
    known = LICENCES.get(card.licence, card.licence)
    named = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", known) is not None
    lines = {
        "license": known if named else "other",
        **({} if named else {"license_name": json.dumps(card.licence, ensure_ascii=False)}),
        "library_name": "sg3",
        "pipeline_tag": "unconditional-image-generation",
        "tags": json.dumps([kind, "gan", "sg3"]),
    }
    return "---\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "---"


def _image_size(G: Any) -> str:
    size = G.img_resolution
    height, width = (size, size) if isinstance(size, int) else size
    classes = f", {G.c_dim} classes" if G.c_dim else ""
    colour = {1: "gray", 3: "RGB", 4: "RGBA"}.get(G.img_channels, f"{G.img_channels} channels")
    return f"{width}×{height}, {colour}{classes}"


def _count(G: Any) -> str:
    return f"{sum(p.numel() for p in G.parameters()):,}"


def _brief(value: Any) -> str:
    """Return a value for a table; of a path only its name, since folders are private."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return without_folders(" ".join(str(value).split())).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def without_folders(text: str) -> str:
    """Return `text` with absolute and home paths cut down to their last part."""
    return re.sub(r"(?<![\w:/.])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])*([^\s/\\]+)", r"\1", text)


def read_metrics(run: Path, snapshot: str) -> list[tuple[str, ...]]:
    """Return metric, value and snapshot for each `metric-*.jsonl` of a run: of `snapshot`, or else
    the last one."""
    rows: list[tuple[str, ...]] = []
    for path in sorted(run.glob("metric-*.jsonl")):
        records = [
            record
            for record in map(_parse, path.read_text(encoding="utf-8").splitlines())
            if record
        ]
        names = [Path(str(r.get("snapshot") or r.get("snapshot_pkl") or "")).name for r in records]
        chosen = [i for i, name in enumerate(names) if name == snapshot] or range(len(records))
        if records:
            record, name = records[chosen[-1]], names[chosen[-1]]
            results = record.get("results") or {}
            rows += [
                (key, f"{value:.5g}" if isinstance(value, float) else str(value), name or "-")
                for key, value in results.items()
            ]
    return rows


def _parse(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_command(run: Path | None, meta: dict[str, Any]) -> str | None:
    """Return the command that made a network: from its run's records, or else from the network's.

    Paths are cut down to their last part.
    """
    manifest = _read(run / "run.json") if run else {}
    if isinstance(argv := manifest.get("argv"), list) and argv:
        return "sg3 " + shlex.join(without_folders(str(word)) for word in argv)
    config = _read(run / "config.json") if run else {}
    if "cfg" in config:
        words = ["sg3", "train"]
        for name in OPTIONS:
            value = config.get(name)
            if value is True:
                words.append(f"--{name}")
            elif value not in (None, False, ""):
                words += [f"--{name}", without_folders(str(value))]
        return shlex.join(words)
    command = meta.get("recipe") or meta.get("command")
    return str(command) if command else None


def _read(path: Path) -> dict[str, Any]:
    return _parse(path.read_text(encoding="utf-8").replace("\n", " ")) if path.is_file() else {}
