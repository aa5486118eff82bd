"""Latents of other tools are read without running code."""

import os
import pathlib
import zipfile

import numpy as np
import pytest
import torch

from sg3.errors import UserError
from sg3.latent_files import latent_metadata, load_latents

NUM_WS, W_DIM = 6, 8


class Shape:
    """Stands for a generator: only its sizes are read."""

    num_ws, w_dim = NUM_WS, W_DIM


def values(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


WS, W = values(2, NUM_WS, W_DIM), values(2, W_DIM)
ONE = WS[0].numpy()

FILES = {
    "projected_w.npz": (lambda p: np.savez(p, w=WS[:1].numpy()), WS[:1]),
    "steps.npz": (lambda p: np.savez_compressed(p, w=WS[None].numpy()), WS),
    "unnamed.npz": (lambda p: np.savez(p, ONE), WS[:1]),
    "float64.npy": (lambda p: np.save(p, WS.double().numpy()), WS),
    "one.npy": (lambda p: np.save(p, ONE), WS[:1]),
    "w.npy": (lambda p: np.save(p, W.numpy()), W[:, None].repeat(1, NUM_WS, 1)),
    "images.npy": (
        lambda p: np.save(p, {"a.png": [WS[1].numpy(), ONE], "b.png": [ONE, WS[1].numpy()]}),
        WS,
    ),
    "tensor.pt": (lambda p: torch.save(WS, p), WS),
    "list.pt": (lambda p: torch.save([WS[0], WS[1]], p), WS),
    "legacy.pt": (lambda p: torch.save(WS, p, _use_new_zipfile_serialization=False), WS),
    "half.pt": (lambda p: torch.save({"w": WS.bfloat16(), "seed": 3}, p), WS.bfloat16().float()),
    "rosinality.pt": (
        lambda p: torch.save(
            {
                name: {"img": values(3, 4, 4), "latent": latent, "noise": [values(1, 1, 4, 4)]}
                for name, latent in zip(("a.png", "b.png"), W, strict=True)
            },
            p,
        ),
        W[:, None].repeat(1, NUM_WS, 1),
    ),
}


@pytest.mark.filterwarnings("ignore:.*noise beside the latents")
@pytest.mark.parametrize("name", FILES)
def test_latents_of_other_tools(name, tmp_path):
    write, expected = FILES[name]
    write(tmp_path / name)
    found = load_latents(tmp_path / name, Shape())
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert latent_metadata(tmp_path / name) == {}


def test_noise_is_told(tmp_path):
    FILES["rosinality.pt"][0](tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="noise beside the latents is left out"):
        load_latents(tmp_path / "a.pt")


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("ran-code"),)


WRONG = {
    "other.npz": (lambda p: np.savez(p, faces=ONE, labels=ONE), "holds none of ws, w"),
    "text.npy": (lambda p: np.save(p, np.array(["a"])), "type <U1, expected numbers"),
    "wide.npy": (lambda p: np.save(p, WS[..., :3].numpy()), "expected \\[N, 6, 8\\]"),
    "evil.npy": (lambda p: np.save(p, np.array([Evil()], dtype=object)), "holds none of"),
    "evil.pt": (lambda p: torch.save({"w": Evil()}, p), "holds none of"),
    "mixed.pt": (lambda p: torch.save([WS, WS[..., :3]], p), "latents of several shapes"),
    "cut.npy": (lambda p: cut(p, FILES["one.npy"][0]), "not a valid .npy"),
    "cut.npz": (lambda p: cut(p, FILES["unnamed.npz"][0]), "damaged or truncated"),
    "cut.pt": (lambda p: cut(p, FILES["tensor.pt"][0]), "damaged or truncated"),
}


def cut(path, write):
    write(path)
    os.truncate(path, path.stat().st_size - 40)


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, message = WRONG[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        load_latents(tmp_path / name, Shape())
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_arrays_that_unpack_to_gigabytes_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        entry = zipfile.ZipInfo("w.npy")
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, bytes(2**20))
        # Claims more than it holds: the size is checked before anything is unpacked.
        entry.file_size = 2**31
    with pytest.raises(UserError, match="claims 2147483648 bytes"):
        load_latents(tmp_path / "a.npz")
