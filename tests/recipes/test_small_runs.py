"""Recipes for small networks from nothing: classifier, judgement, prepared data, a whole run."""

import gzip
import io
import json
import math
import struct
import tarfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sg3
from recipes import fashion, small_images
from recipes.classifier import (
    ClassifierConfig,
    load_classifier,
    num_batches,
    train_classifier,
)
from recipes.learning_curve import Reference, entropy, judge_run
from sg3.data import open_dataset
from sg3.metrics import evaluate
from sg3.metrics.features import load_features

SIDE = 28


def bars(count, seed=0):
    """Images uint8 `[N, 28, 28]` of upright (0) or level (1) bars, and their classes."""
    random = np.random.RandomState(seed)
    images, labels = np.zeros([count, SIDE, SIDE], np.uint8), random.randint(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        view = image if label else image.T
        view[random.randint(4, 20) :][:4] = random.randint(100, 255)
    return images, labels


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idx")
    for part, (count, seed) in {"train": (200, 0), "t10k": (60, 1)}.items():
        images, labels = bars(count, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    result = run(fashion, f"prepare --source {source} --outdir {out}")
    assert result.exit_code == 0, result.output
    return out, result.output


def run(recipe, words):
    return CliRunner().invoke(recipe.main, words.split())


def test_the_classifier_learns_and_is_the_same_from_its_file(tmp_path):
    images, labels = (torch.from_numpy(x) for x in bars(200))
    config = ClassifierConfig(epochs=6, batch=20)
    *models, model = train_classifier(images[:, None], labels, ("upright", "level"), config)
    assert len(models) == num_batches(200, config) == 60
    features, classes = model.classify(images[:, None])
    assert (classes == labels).float().mean() > 0.95 and features.shape == (200, 64)
    model.save(tmp_path / "bars.safetensors", {"trained_on": "bars"})
    again = load_features(f"classifier:{tmp_path / 'bars.safetensors'}")
    assert torch.equal(again(images[:, None]), features)
    assert (again.name, again.dim, again.classes) == ("classifier:bars", 64, ("upright", "level"))


def test_another_file_is_no_classifier(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_classifier(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="written by a recipe's `prepare`"):
        load_classifier(tmp_path / "text")


def test_entropy_is_a_fraction_of_the_uniform_one():
    assert entropy(torch.arange(10).repeat(3), 10) == pytest.approx(1)
    assert entropy(torch.zeros(10, dtype=torch.int64), 10) == pytest.approx(0)
    assert entropy(torch.tensor([0, 0, 1, 2]), 4) == pytest.approx(1.5 * math.log(2) / math.log(4))


def test_lost_modes_show_in_distance_and_recall(prepared):
    out, _ = prepared
    classifier = load_classifier(out / fashion.FASHION.classifier)
    reference = Reference.of(classifier, out / fashion.FASHION.train_zip)
    images, labels = bars(200, seed=2)
    padded = torch.from_numpy(np.pad(images, [(0, 0), (2, 2), (2, 2)])[:, None])
    whole = reference.judge(padded)
    half = reference.judge(padded[torch.from_numpy(labels == 0)])
    assert whole.distance < 0.3 * half.distance
    assert whole.recall > half.recall + 0.2


def test_prepare_writes_what_is_missing(source, prepared):
    out, output = prepared
    names = {path.name for path in out.iterdir()}
    data = fashion.FASHION
    assert names == {data.train_zip, data.test_zip, data.classifier} and "test images" in output
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(fashion, f"prepare --source {source} --outdir {out}").exit_code == 0
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / data.test_zip).unlink()
    result = run(fashion, f"prepare --source {out} --outdir {out}")
    assert result.exit_code == 2 and "dataset-fashion-mnist" in result.output
    assert run(fashion, f"prepare --source {source} --outdir {out}").exit_code == 0


def test_metrics_take_the_classifier(prepared):
    out, _ = prepared
    features = f"classifier:{out / fashion.FASHION.classifier}"
    dataset = open_dataset(str(out / fashion.FASHION.test_zip))
    G = sg3.load("fashion-32").G_ema
    found = evaluate("fd0.1k_full", G, dataset, features=features)
    assert found["num_real"] == 60 and found["features"] == "classifier:fashion-32-classifier"
    assert found["results"]["fd0.1k_full_classifier-fashion-32-classifier"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", fashion.VARIANTS)
def test_a_run_from_nothing_and_its_curve(prepared, tmp_path, variant):
    out, _ = prepared
    changes = "kimg=0.16 tick=0.08 snap=1 batch=8 cmax=8 grid=7x4 mbstd_group=2"
    settings = " ".join(f"--set {change}" for change in changes.split())
    words = f"train --data {out}/fashion-32.zip --outdir {tmp_path} --variant {variant} {settings}"
    result = run(fashion, words)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    options = json.loads((folder / "config.json").read_text())
    assert options["budget"] == "small" and options["resume"] is None and options["aug"] == "noaug"
    words = f"evaluate --data {out} --run a={folder} --num 60 --test --outdir {tmp_path}"
    result = run(fashion, words)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "fashion-32-curve.json").read_text())
    curve = found["curves"]["a"]
    assert curve[-1]["kimg"] == 0.16 and len(curve) >= 2
    assert curve[0]["distance"] > found["scale"] and set(found["test"]) == {"a"}
    assert Image.open(tmp_path / "fashion-32-curve.png").width > 1000
    again = run(fashion, words)
    assert again.exit_code == 0 and len((folder / "curve.jsonl").read_text().splitlines()) == len(
        curve
    )


def test_a_missing_source_leaves_no_folder(tmp_path):
    result = run(fashion, f"prepare --source {tmp_path} --outdir {tmp_path / 'new'}")
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_every_other_snapshot_and_the_last(prepared, tmp_path):
    out, _ = prepared
    reference = Reference.of(
        load_classifier(out / fashion.FASHION.classifier), out / fashion.FASHION.test_zip
    )
    network = sg3.load("fashion-32")
    for kimg in (0, 1, 2, 3):
        meta = {**network.meta, "kimg": kimg}
        sg3.save(
            sg3.Networks(G_ema=network.G_ema, meta=meta),
            tmp_path / f"network-{kimg:06}.safetensors",
        )
    judged = [record["kimg"] for record in judge_run(tmp_path, reference, num=20, every=2)]
    assert judged == [0, 2, 3]


def test_evaluate_needs_a_run(prepared, tmp_path):
    out, _ = prepared
    result = run(fashion, f"evaluate --data {out} --run x={tmp_path} --outdir {tmp_path / 'new'}")
    assert result.exit_code == 2 and "expected the folder of a run" in result.output
    assert not (tmp_path / "new").exists()


def emoji_package(path, vendor, names):
    """Write a package as npm packs it; `names` are names of emoji by category."""
    known, random = [], np.random.RandomState(0)
    with tarfile.open(path, "w:gz") as archive:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for category, some in names.items():
            for name in some:
                file, pixels = io.BytesIO(), random.randint(0, 255, [64, 64, 4], np.uint8)
                pixels[:24, :24, 3] = 0
                Image.fromarray(pixels).save(file, "png")
                add(f"package/img/{vendor}/64/{name.lower()}.png", file.getvalue())
                known.append(
                    {"name": name, "image": f"{name.lower()}.png", "category": category,
                     f"has_img_{vendor}": True}
                )  # fmt: skip
        known.append(known[0] | {f"has_img_{vendor}": False, "image": "missing.png"})
        add("package/emoji.json", json.dumps(known).encode())


def test_emoji_become_a_dataset_with_captions(tmp_path):
    names = {"Flags": ["RED", "BLUE"], "Objects": ["PEN"], "Component": ["TONE"]}
    package = tmp_path / "emoji-datasource-google-1.0.0.tgz"
    emoji_package(package, "google", names)
    count = small_images.prepare_zip((package,), tmp_path)
    captions = json.loads((tmp_path / small_images.CAPTIONS).read_text())
    assert count == 3 and sorted(captions.values()) == ["blue", "pen", "red"]
    images, labels = small_images.EMOJI.load(tmp_path)
    assert images.shape == (3, 3, 32, 32) and labels.tolist() == [0, 0, 1]
    assert (images[:, :, :6, :6] == 255).all()  # transparent areas are white


@pytest.mark.parametrize("name", ["missing.tgz", "other.tgz"])
def test_another_package_is_one_line(tmp_path, name):
    with tarfile.open(tmp_path / "other.tgz", "w:gz"):
        pass
    result = run(small_images, f"prepare --source {tmp_path / name} --outdir {tmp_path / 'new'}")
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert "npm pack" in result.output and not (tmp_path / "new").exists()
