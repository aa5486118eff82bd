"""What a run says of its data, and of being finished."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from program import fails, works
from tiny_runs import TINY, noise_images

import sg3
from sg3.generate import class_label
from sg3.training.config import TrainConfig
from sg3.training.loop import train


def config_of(data, outdir, **changes):
    options = dict(
        data=str(data), outdir=str(outdir), cfg="stylegan2", gamma=1, kimg=0.004, metrics=()
    )
    return TrainConfig(**(options | TINY | changes))


def vectors(folder):
    """Give the images labels of two numbers."""
    names = sorted(p.name for p in folder.glob("*.png"))
    labels = ", ".join(f'["{name}", [{i}.5, 90]]' for i, name in enumerate(names))
    (folder / "dataset.json").write_text(f'{{"labels": [{labels}]}}')


def test_damaged_names_and_unused_labels_are_logged(tmp_path):
    for i, name in enumerate(("cats", "dogs")):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(np.full([16, 16, 3], 100 * i, np.uint8)).save(
            tmp_path / "in" / name / "a.png"
        )
    with open(os.fsencode(tmp_path / "in") + b"/cats/\xff.png", "wb") as file:
        file.write(b"damaged")
    (tmp_path / "in" / ".DS_Store").write_bytes(b"")
    (last,) = train(config_of(tmp_path / "in", tmp_path / "runs"))
    log = (last.folder / "log.txt").read_text(encoding="utf-8")
    assert "starting from scratch with 2 images, gamma 1" in log
    assert "the data has 2 classes, which are not used without `cond`" in log
    assert "skipped 1 hidden or system file: .DS_Store" in log
    assert "1 images that cannot be used are skipped" in log and "cats/\\udcff.png: not an" in log


def test_vector_labels_are_recorded_and_asked_for(tmp_path):
    (tmp_path / "in").mkdir()
    noise_images(tmp_path / "in", 4)
    vectors(tmp_path / "in")
    (last,) = train(config_of(tmp_path / "in", tmp_path / "runs", cond=True))
    assert "with 4 images with labels of 2 numbers" in last.start
    G = sg3.load(str(last.snapshot)).G_ema
    assert G.label_kind == "vectors" and class_label(G, (5.0, 90.0)).tolist() == [[5.0, 90.0]]
    where = ("generate", "--network", last.snapshot, "--seeds", "0,0,3", "--outdir", tmp_path / "o")
    expected = "expected a label of 2 numbers like 5.0,90"
    fails(f"--class: got 0, {expected}", *where, "--class", "0")
    fails(f"--class: got 5, {expected}", *where, "--class", "5.0")
    fails("choose a label of 2 numbers", *where)
    fails("expected a class like 3, or numbers like 5.0,90", *where, "--class", "x,1")
    told = works(*where, "--class", "5.0,90")
    assert f"2 images in {tmp_path / 'o'} (1 of --seeds repeat another)" in told
    assert sorted(p.name for p in (tmp_path / "o").glob("*.png")) == [
        "seed0000.png",
        "seed0003.png",
    ]


def test_labels_of_networks_with_classes():
    class G(torch.nn.Linear):
        c_dim = 3

    assert class_label(G(1, 1), 2).tolist() == [[0, 0, 1]]
    assert class_label(G(1, 1), (0.5, 0.5, 0.0)).tolist() == [[0.5, 0.5, 0]]  # between classes
    with pytest.raises(ValueError, match="got 5,90, expected 0 to 2, or 3 numbers"):
        class_label(G(1, 1), (5.0, 90.0))


def test_one_image_trains_with_larger_batches(tmp_path):
    (tmp_path / "in").mkdir()
    noise_images(tmp_path / "in", 1)
    (last,) = train(config_of(tmp_path / "in", tmp_path / "runs"))
    assert last.done and "with 1 image, gamma 1" in last.start


def test_a_finished_run_says_that_nothing_is_to_do(tmp_path):
    (tmp_path / "in").mkdir()
    noise_images(tmp_path / "in", 4)
    options = config_of(tmp_path / "in", tmp_path / "runs")
    list(train(options))
    (step,) = train(config_of(tmp_path / "in", tmp_path / "runs", resume="latest"))
    assert step.done and step.notes[-1] == "nothing to do: 0.004 of 0.004 kimg"


def test_a_batch_that_does_not_split_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("sg3.cli.train.run_processes", lambda num: pytest.fail("was started"))
    where = ("--data", tmp_path, "--outdir", tmp_path / "runs", "--cfg", "stylegan3-t")
    more = ("--gamma", 1, "--gpus", 2, "--device", "cpu")
    fails("--batch: got 5, expected a multiple of the 2 processes", "train", *where, *more,
          "--batch", 5)  # fmt: skip
    fails("--batch-gpu: got 3", "train", *where, *more, "--batch", 4, "--batch-gpu", 3)
