"""What the fuzzer starts from, and how each kind of file is read."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

import sg3
from sg3.checkpoints.delta import apply_deltas, difference, load_delta, save_delta
from sg3.checkpoints.layouts import Stated
from sg3.checkpoints.official_pickle import load_official_pickle
from sg3.checkpoints.peers import load_torch_archive
from sg3.checkpoints.torchscript import is_torchscript, script_state
from sg3.data.cifar import read_cifar
from sg3.data.decoding import decode
from sg3.data.faces import read_landmarks
from sg3.data.labels import read_labels
from sg3.data.source import ImageSource
from sg3.data.tar_stream import read_shard
from sg3.latent_files import read_latent_file
from sg3.model_card import read_metrics
from sg3.networks import build_network
from sg3.training.progress_page import collect
from sg3.training.run_folder import read_jsonl
from sg3.training.state import FORMAT, VERSION, read_state

TESTS = Path(__file__).resolve().parents[1]
TINY = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
TINY |= {"num_layers": 4, "channel_base": 64, "channel_max": 4, "margin_size": 2}


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        seeds: contents of sound files.
        mutate: makes a damaged one.
        read: reads the file at a path; ValueError says that it is damaged.
        name: of the file.
    """

    seeds: list[bytes]
    mutate: mutations.Mutation
    read: Callable[[Path], Any]
    name: str


def kinds(folder: Path) -> dict[str, Kind]:
    """Return all kinds of files by name; `folder` is for temporary files."""
    torch.manual_seed(0)
    G = build_network("stylegan3", TINY).eval().requires_grad_(False)
    pickled = [p.read_bytes() for p in sorted(_files("golden", "pkl") + _files("peerfiles", "pkl"))]
    archives = [p.read_bytes() for p in sorted(_files("peerfiles", "pt"))]
    return {
        "pickle": Kind(
            [*pickled, *_small_pickles()], mutations.mutate_pickle, load_official_pickle, "n.pkl"
        ),
        "torch archive": Kind(
            [*archives, *_torch_files(G), *map(_torch, _small_contents())],
            _mutate_archive,
            _read_archive,
            "n.pt",
        ),
        "safetensors": Kind(
            _networks(folder, G), mutations.mutate_safetensors, sg3.load, "n.safetensors"
        ),
        "delta": Kind(
            _deltas(folder, G),
            mutations.mutate_safetensors,
            lambda path: apply_deltas(G, [(load_delta(path), 0.5)], force=True),
            "d.safetensors",
        ),
        "latent": Kind(
            _latents(G), _mutate_latent, lambda path: read_latent_file(path, G), "l.safetensors"
        ),
        "zip": Kind(
            _zips(),
            mutations.mutate_zip(_mutate_entry, (".json", ".png", ".jpg")),
            _read_images,
            "d.zip",
        ),
        "tar": Kind(_tars(), mutations.mutate_bytes, _read_tar, "d.tar"),
        "run state": Kind(
            [_torch(_state()), _torch(_state(), legacy=True)], _mutate_archive, read_state, "s.pt"
        ),
        "JSON": Kind(_texts(), mutations.mutate_json, _read_texts, "run.json"),
    }


def _files(folder: str, suffix: str) -> list[Path]:
    return list((TESTS / folder).glob(f"*.{suffix}"))


def _torch(content: Any, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def _small_contents() -> list[Any]:
    tensor = torch.arange(6.0).reshape(2, 3)
    shared = [tensor, tensor.T, tensor[0], tensor.half(), tensor.bfloat16(), tensor.int()]
    return [
        {"g_ema": {"style.1.weight": tensor}, "args": {"size": 32}, "latent_avg": tensor[0]},
        {"a": shared, "b": (1, 2.5, None, True, "x", 2**70), 3: {(1, "k"): [set(), {"n"}]}},
    ]


def _small_pickles() -> list[bytes]:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    contents = [
        *_small_contents(),
        {"G_ema": {"x": array, "y": np.float32(3), "z": array.astype(">i2"), "b": b"abc"}},
    ]
    return [pickle.dumps(each, protocol) for each in contents for protocol in (2, 4)]


def _torch_files(G: torch.nn.Module) -> list[bytes]:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Module(), torch.zeros(1, 2)), script)
    state = {"g_ema": G.state_dict()}
    return [script.getvalue(), _torch(state), _torch(state, legacy=True)]


def _mutate_archive(random, data, others):
    if data[:2] == b"PK":
        return mutations.mutate_zip(mutations.mutate_pickle, ("data.pkl",))(random, data, others)
    return mutations.mutate_pickle(random, data, others)


def _read_archive(path: Path) -> Any:
    if is_torchscript(path):
        return script_state(path)
    return load_torch_archive(path, Stated.parse(None))


def _networks(folder: Path, G: torch.nn.Module) -> list[bytes]:
    nets = sg3.load(TESTS / "golden" / "official-sg2-32.pkl")
    found = []
    for made in (sg3.checkpoints.Networks(G_ema=G), nets):
        path = folder / "n.safetensors"
        sg3.save(made, path)
        found.append(path.read_bytes())
    return [*found, save(G.state_dict()), save(nets.G_ema.state_dict())]


def _deltas(folder: Path, G: torch.nn.Module) -> list[bytes]:
    other = build_network("stylegan3", TINY).eval()
    found = []
    for rank in (None, 1):
        path = folder / "d.safetensors"
        save_delta(difference(G, other, rank, meta={"source": "tiny", "prompts": ["a"]}), path)
        found.append(path.read_bytes())
    return found


def _latents(G: Any) -> list[bytes]:
    ws = torch.randn(2, G.num_ws, G.w_dim)
    about = {"format": "sg3-latent", "version": "1", "network": "x", "network_sha256": "0" * 64}
    styles = {"ws_before_styles": ws, "styles.L0_20_4": torch.zeros(1, 4)}
    arrays: list[bytes] = []
    for write, content in (
        (np.save, ws.numpy()),
        (np.savez, ws.numpy()),
        (np.savez_compressed, ws.numpy()),
        (np.save, np.array({"a": [ws[0].numpy()], "b": [ws[1].numpy()]}, dtype=object)),
    ):
        out = io.BytesIO()
        write(out, content)
        arrays.append(out.getvalue())
    image = {"image": {"latent": ws[0], "noise": [torch.zeros(1)]}}
    return [save({"ws": ws}, about), save(styles, about), *arrays, _torch(ws), _torch(image)]


def _mutate_latent(random, data, others):
    if data[:2] == b"PK":
        return mutations.mutate_zip(mutations.mutate_pickle, (".pkl", ".npy"))(random, data, others)
    if data[:1] == b"\x93" and b"\x80" in data:
        start = data.index(b"\x80", 64)
        if random.random() < 0.7:
            return data[:start] + mutations.mutate_pickle(random, data[start:], others)
    if data[:1] in (b"\x93", b"\x80"):
        return mutations.mutate_bytes(random, data, others)
    return mutations.mutate_safetensors(random, data, others)


# Data -------------------------------------------------------------------------------------------


def _image(form: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((8, 8), 50).convert(mode).save(out, form)
    return out.getvalue()


def _zips() -> list[bytes]:
    index = {"labels": [["a.png", 0], ["b.png", 1], ["c.jpg", 1]]}
    vectors = {"labels": [["a.png", [0.5, 1]], ["b.png", [1, 2]], ["c.jpg", [0, 0]]]}
    found = []
    for content, method in ((index, zipfile.ZIP_STORED), (vectors, zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("a.png", _image("PNG"))
            archive.writestr("b.png", _image("PNG", "L"))
            archive.writestr("c.jpg", _image("JPEG"))
            archive.writestr("dataset.json", json.dumps(content))
        found.append(out.getvalue())
    return found


def _mutate_entry(random, data, others):
    mutate = mutations.mutate_json if data[:1] == b"{" else mutations.mutate_bytes
    return mutate(random, data, others)


def _read_images(path: Path) -> None:
    source = ImageSource(path)
    try:
        for name in source.image_names:
            try:
                source.decode(name)
                source.image_shape(name)
            except ValueError:
                continue
        read_labels(source, source.image_names)
    finally:
        source.close()


def _tars() -> list[bytes]:
    samples = {"a.png": _image("PNG"), "a.cls": b"3", "b.jpg": _image("JPEG")}
    samples |= {"b.json": b'{"label": [0.5, 2]}', "c.webp": b"x", "c.json": b'{"label": 1}'}
    batch = pickle.dumps({b"labels": [1, 2], b"data": b"x"}, 2)
    found = []
    for mode, content in (("w", samples), ("w:gz", {"data_batch_1": batch, "batches.meta": batch})):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, format=tarfile.GNU_FORMAT) as archive:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        found.append(out.getvalue())
    return found


def _read_tar(path: Path) -> None:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        try:
            read_cifar(path)
        except (tarfile.TarError, EOFError, OSError, struct.error) as error:
            raise ValueError(str(error)) from None  # as the command does
        return
    for sample in read_shard(str(path), lambda name, reason: None):
        try:
            decode(sample.image or b"", None)
        except ValueError:
            continue


# States and texts -------------------------------------------------------------------------------


def _state() -> dict[str, Any]:
    numbers = {"keys": torch.zeros(4), "position": 1, "has_gauss": 0, "gauss": 0.0}
    member = {"python": (3, (1, 2), None), "numpy": numbers, "torch": torch.zeros(2)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "kwargs": {"G": TINY, "D": TINY},
        "networks": {name: {"w": torch.ones(2)} for name in ("G", "D", "G_ema")},
        "optimizers": {"G": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}},
        "pl_mean": torch.zeros([]),
        "labels": numbers,
        "latents": torch.zeros(2),
        "members": [member | {"stats": {}, "loader": {"order": torch.zeros(2)}}],
        "counters": {"cur_nimg": 4, "batch_idx": 1, "tick": 0, "tick_start_nimg": 0},
        "config": {"batch": 4},
        "output": {"seconds": 1.0},
    }


def _texts() -> list[bytes]:
    run = {"command": "steer", "arguments": {"seed": 1}, "finished": True, "results": {"a": 0.5}}
    options = {"data": "x.zip", "training_set_kwargs": {"path": "x.zip", "max_size": 3}}
    models = {"my-faces": "a.pkl", "b": {"source": "hf://a/b", "sha256": "0" * 64, "resolution": 4}}
    points = {"a.png": [[float(i), float(i % 7)] for i in range(68)]}
    stats = [{"Progress/kimg": {"mean": 1.0}, "timestamp": 1.0, "results": {"fid": 3}}] * 3
    lines = "\n".join(map(json.dumps, stats))
    return [*(json.dumps(each).encode() for each in (run, options, models, points)), lines.encode()]


def _read_texts(path: Path) -> None:
    from guidance.commands.steer import is_finished
    from sg3.checkpoints.user_models import read_user_models
    from sg3.cli.metrics import run_data

    folder = path.parent
    is_finished(folder, {"seed": 1})
    for name in ("config.json", "stats.jsonl", "metric-fid.jsonl"):
        (folder / name).write_bytes(path.read_bytes())
    run_data(folder)
    read_jsonl(folder / "stats.jsonl")
    read_metrics(folder, "network.safetensors")
    collect(folder)
    for read in (read_user_models, lambda: read_landmarks(path, ["a.png"])):
        try:
            read()
        except ValueError:
            continue
