"""Datasets, sampling order and batches that resume."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.data import BatchLoader, ImageDataset, ShuffleSampler


@pytest.fixture
def folder(tmp_path):
    random = np.random.RandomState(0)
    root = tmp_path / "images"
    for i in range(6):
        path = root / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 255, [8, 8, 3], np.uint8)).save(path)
    labels = [[f"{i % 2}/{i}.png", i % 3] for i in range(6)]
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def _write(root, index):
    (root / "dataset.json").write_text(json.dumps(index))


def _label(root, labels):
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    _write(root, {"labels": list(zip(names, labels, strict=False))})


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_images_labels_and_flips(folder, cache):
    data = ImageDataset(folder, use_labels=True, xflip=True, cache=cache)
    assert len(data) == 12 and data.image_shape == (3, 8, 8) and data.label_dim == 3
    image, label = data[1]  # sorted by name: 0/0, 0/2, 0/4, 1/1, 1/3, 1/5
    expected = np.asarray(Image.open(folder / "0" / "2.png")).transpose(2, 0, 1)
    assert np.array_equal(image.numpy(), expected) and label.tolist() == [0, 0, 1]
    assert torch.equal(data[7][0], image.flip(2)) and torch.equal(data[7][1], label)
    assert torch.equal(data.images([7, 1])[1], image)


def test_subset_is_drawn_by_seed(folder):
    order = np.arange(6)
    np.random.RandomState(5).shuffle(order)
    data, whole = ImageDataset(folder, max_size=3, random_seed=5), ImageDataset(folder)
    assert torch.equal(data.images(range(3)), whole.images(sorted(order[:3])))


def test_zip_equals_folder(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder).as_posix())
    one, other = ImageDataset(folder, use_labels=True), ImageDataset(tmp_path / "d.zip", True)
    assert torch.equal(one.images(range(6)), other.images(range(6)))
    assert torch.equal(one.labels(range(6)), other.labels(range(6)))


@pytest.mark.parametrize(
    "change, options, message",
    [
        (
            lambda f: Image.new("RGB", (8, 4)).save(f / "z.png"),
            {},
            r"z\.png is 8x4 RGB, but 0/0.* sg3 dataset",
        ),
        (lambda f: Image.new("L", (8, 8)).save(f / "z.png"), {}, r"z\.png is 8x8 gray, but"),
        (lambda f: Image.new("RGBA", (8, 8)).save(f / "z.png"), {}, r"z\.png is 8x8 RGBA, but"),
        (lambda f: _write(f, {"labels": None}), {"use_labels": True}, "has none; leave out"),
        (lambda f: _label(f, [0, 1, 2, 3, 4, 2.5]), {"use_labels": True}, "of several kinds"),
        (lambda f: _label(f, [0, 1, 2, 3, 4, -1]), {"use_labels": True}, "range from -1 to 4"),
        (lambda f: _label(f, [0, 1, 2, 3, 4, 10**12]), {"use_labels": True}, "range from 0 to 10"),
        (lambda f: _label(f, [[0, 1]] * 5 + [[0]]), {"use_labels": True}, "of several kinds"),
        (lambda f: _label(f, [0, 1, 2]), {"use_labels": True}, r"3 images lack a label, first 1/1"),
        (
            lambda f: (f / "dataset.json").write_text("[]"),
            {"use_labels": True},
            "expected an object",
        ),
        (lambda f: (f / "dataset.json").write_text("{"), {"use_labels": True}, "malformed"),
        (lambda f: None, {"resolution": 16}, "expected 16x16"),
    ],
)
def test_bad_data_is_one_line(folder, change, options, message):
    change(folder)
    with pytest.raises(ValueError, match=message) as error:
        ImageDataset(folder, cache="ram", **options)
    assert "\n" not in str(error.value)


def test_sampler_follows_the_formula():
    n, random = 7, np.random.RandomState(3)
    order = np.arange(n)
    random.shuffle(order)
    window, expected = int(np.rint(n * 0.5)), []
    for index in range(40):
        i = index % n
        expected.append(order[i])
        j = (i - random.randint(window)) % n
        order[i], order[j] = order[j], order[i]
    assert ShuffleSampler(n, seed=3).take(40) == expected
    parts = [ShuffleSampler(n, seed=3, rank=r, replicas=2).take(20) for r in (0, 1)]
    assert [x for pair in zip(*parts, strict=True) for x in pair] == expected


def test_batches_resume_exactly(folder):
    data = ImageDataset(folder, use_labels=True)

    def loader():
        return BatchLoader(data, ShuffleSampler(len(data), seed=1), 4)

    one = loader()
    for _ in range(3):
        one.next()
    state = one.state()
    other = loader()
    other.load_state(state)
    for _ in range(4):
        (a, ca), (b, cb) = one.next(), other.next()
        assert torch.equal(a, b) and torch.equal(ca, cb)
    one.close()
    other.close()
    with pytest.raises(ValueError, match="saw 6 images"):
        ShuffleSampler(5).load_state(state["sampler"])
