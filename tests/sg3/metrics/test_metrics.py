"""`evaluate`: a perfect copy scores 0; batches and processes do not change results."""

import copy
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sg3.data import open_dataset
from sg3.distributed.team import Team
from sg3.metrics import evaluate, real, write_result
from sg3.metrics.sampling import generated_images, in_batches
from sg3.networks import build_network

NUM = 60  # images in the dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give each test its own feature cache, without moving the cache of compiled code."""
    monkeypatch.setattr(real, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "metrics"


def write_images(folder, seed=0, num=NUM, side=16):
    random = np.random.RandomState(seed)
    folder.mkdir()
    for i in range(num):
        coarse = random.randint(0, 256, [4, 4, 3]).astype(np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(folder / f"{i:03d}.png")
    return str(folder)


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(write_images(tmp_path / "images"))


class Pixels:
    """Features without a network: a projection of small images."""

    def __init__(self, name="pixels", dim=24, seed=0):
        self.name, self.dim = name, dim
        self._weight = torch.from_numpy(np.random.RandomState(seed).randn(48, dim)).float() / 10
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        small = nn.functional.adaptive_avg_pool2d(images.float() / 255, 4)
        return small.flatten(1) @ self._weight


def tiny_generator(**changes):
    torch.manual_seed(0)
    kwargs = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, channel_base=64)
    kwargs.update(channel_max=8, num_layers=4, margin_size=4)
    return build_network("stylegan3", {**kwargs, **changes}).eval().requires_grad_(False)


class Copy(nn.Module):
    """A generator that reproduces its dataset."""

    z_dim, c_dim, img_channels, img_height, img_width = 4, 0, 3, 16, 16

    def __init__(self, dataset):
        super().__init__()
        self.dataset, self.shown = dataset, 0
        self.weight = nn.Parameter(torch.zeros([]))

    def forward(self, z, c):
        rows = (self.shown + np.arange(len(z))) % len(self.dataset)
        self.shown += len(z)
        return self.dataset.images(rows).float() / 127.5 - 1


class ThreadTeam(Team):
    """One of several processes, simulated by threads."""

    def __init__(self, rank, shared):
        super().__init__(rank, shared["barrier"].parties)
        self._shared = shared

    def sum_(self, tensor):
        box, barrier = self._shared["box"], self._shared["barrier"]
        box[self.rank] = tensor.clone()
        barrier.wait()
        tensor.copy_(torch.stack([box[rank] for rank in range(self.size)]).sum(dim=0))
        barrier.wait()
        return tensor


def evaluate_together(size, name, G, *args, **options):
    shared = {"box": {}, "barrier": threading.Barrier(size, timeout=60)}
    found = {}

    def run(rank):
        found[rank] = evaluate(
            name, copy.deepcopy(G), *args, team=ThreadTeam(rank, shared), **options
        )

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(size)]


def test_a_perfect_copy(dataset):
    """With as many images as in the dataset: the copy shows each once."""
    results = {}
    for name in ("fid0.06k_full", "kid0.06k_full", "pr0.06k3_full", "fid0.06k"):
        found = evaluate(name, Copy(dataset), dataset, features=Pixels())
        assert found["num_real"] == found["num_generated"] == NUM
        results.update(found["results"])
    assert results["fd0.06k_full_pixels"] == pytest.approx(0, abs=1e-6)
    assert results["fd0.06k_pixels"] == pytest.approx(0, abs=1e-6)
    assert results["kd0.06k_full_pixels"] < 0  # unbiased: the same samples are closer than expected
    assert results["pr0.06k3_full_pixels_precision"] == 1
    assert results["pr0.06k3_full_pixels_recall"] == 1
    noise = evaluate("kid0.06k_full", tiny_generator(), dataset, features=Pixels())
    assert noise["results"]["kd0.06k_full_pixels"] > 0.005


NAMES = ("fid0.07k_full", "kid0.07k_full", "pr0.07k3", "eqt0.011k_frac")


@pytest.fixture
def alone(dataset):
    G = tiny_generator()
    return {name: evaluate(name, G, dataset, features=Pixels())["results"] for name in NAMES}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_batches_and_processes_do_not_matter(dataset, alone, own_cache):
    G = tiny_generator()
    for name in NAMES:
        for file in own_cache.glob("*"):
            file.unlink()
        other = evaluate(name, G, dataset, features=Pixels(), batch=7)
        assert_same(other["results"], alone[name])
        for size in (2, 3):
            for file in own_cache.glob("*"):
                file.unlink()
            found = evaluate_together(size, name, G, dataset, features=Pixels())
            assert [f["num_gpus"] for f in found] == [size] * size
            for each in found:
                assert_same(each["results"], alone[name])
    changed = evaluate(NAMES[0], G, dataset, features=Pixels(), seed=1)
    assert changed["results"] != alone[NAMES[0]]


def test_torchs_random_state_is_unchanged(dataset):
    G = tiny_generator()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluate("fid0.02k_full", G, dataset, features=Pixels())
    evaluate("eqt0.004k_int", G, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_stylegan2_depends_on_the_seed(dataset):
    torch.manual_seed(0)
    kwargs = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, channel_base=64)
    G = build_network("stylegan2", kwargs).eval().requires_grad_(False)
    for name, tensor in G.named_parameters():
        if name.endswith("noise_strength"):
            tensor.fill_(1.0)
    once, again = (torch.cat([x for _, x in generated_images(G, None, 9, 3)]) for _ in range(2))
    other = torch.cat([x for _, x in generated_images(G, None, 9, 4)])
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_statistics_of_the_data_are_cached(dataset, tmp_path, own_cache):
    G = tiny_generator()

    def measure(dataset, features, name="fid0.02k_full"):
        result = evaluate(name, G, dataset, features=features)
        return features.seen, next(iter(result["results"].values()))

    probes = 2  # images that identify a network
    first, value = measure(dataset, Pixels())
    again, same = measure(dataset, Pixels())
    assert first == probes + NUM + 20 and again == probes + 20 and same == value
    assert measure(dataset, Pixels(seed=1))[0] == first  # different weights with the same name
    (file,) = own_cache.glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert measure(dataset, Pixels()) == (first, value)
    mirrored = open_dataset(str(dataset.path), xflip=True)
    assert measure(mirrored, Pixels()) == (again, value)  # _full means without flips
    assert measure(dataset, Pixels(), "fid0.2k")[0] == probes + NUM + 200
    assert measure(mirrored, Pixels(), "fid0.2k")[0] == probes + 2 * NUM + 200
    Image.new("RGB", (16, 16), "red").save(dataset.path / "000.png")
    assert measure(open_dataset(str(dataset.path)), Pixels())[0] == first


def test_labels_come_from_the_data(tmp_path):
    folder = tmp_path / "images"
    write_images(folder, num=12)
    labels = [[f"{i:03d}.png", i % 3] for i in range(12)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    G, seen = tiny_generator(c_dim=3), []
    G.mapping.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[1]), with_kwargs=True
    )
    dataset = open_dataset(str(folder), use_labels=True)
    evaluate("fid0.1k_full", G, dataset, features=Pixels())
    counts = torch.cat(seen).sum(dim=0)
    assert counts.sum() == 100 and counts.min() > 15
    with pytest.raises(ValueError, match="labels have 0 dimensions"):
        evaluate("fid0.1k_full", G, open_dataset(str(folder)), features=Pixels())
    with pytest.raises(ValueError, match="labels for this network"):
        evaluate("eqr0.1k", G, None)


def test_data_that_does_not_fit(tmp_path, dataset):
    G = tiny_generator()
    other = open_dataset(write_images(tmp_path / "large", side=32, num=3))
    with pytest.raises(ValueError, match=r"32x32 .* generates 16x16"):
        evaluate("fid0.1k_full", G, other, features=Pixels())
    with pytest.raises(ValueError, match="real images"):
        evaluate("fid0.1k_full", G, None, features=Pixels())
    with pytest.raises(ValueError, match="Inception"):
        evaluate("is0.1k", G, None, features=Pixels())


def test_features_that_are_not_finite(dataset):
    features = Pixels()
    features._weight[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate("fid0.02k_full", tiny_generator(), dataset, features=features)


def test_progress_and_lines(dataset, tmp_path):
    calls = []
    result = evaluate(
        "fid0.02k_full", tiny_generator(), dataset, features=Pixels(),
        progress=lambda *what: calls.append(what),
    )  # fmt: skip
    assert calls[0] == ("real images", 0, NUM) and calls[-1] == ("generated images", 20, 20)
    for _ in range(2):
        path = write_result(result, tmp_path, "network.safetensors")
    assert path.name == "metric-fd0.02k_full_pixels.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["results"] == result["results"]
    assert lines[0]["features"] == "pixels" and lines[0]["snapshot"] == "network.safetensors"


def test_progress_is_a_bar_on_request(dataset, capsys):
    options = {"features": Pixels()}
    evaluate("fid0.02k_full", tiny_generator(), dataset, **options)
    assert capsys.readouterr().err == ""
    evaluate("fid0.02k_full", tiny_generator(), dataset, **options, progress=True)
    assert "fid0.02k_full, generated images: 100%" in capsys.readouterr().err


def test_batches_are_resized():
    sizes, start = [3, 5, 1, 9], 0
    source = []
    for size in sizes:
        rows = np.arange(start, start + size)
        source.append((rows, torch.from_numpy(rows)[:, None]))
        start += size
    found = list(in_batches(iter(source), 4))
    assert [len(rows) for rows, _ in found] == [4, 4, 4, 4, 2]
    assert all(rows.tolist() == images[:, 0].tolist() for rows, images in found)
    assert np.concatenate([rows for rows, _ in found]).tolist() == list(range(18))
