"""`sg3 train` with bad input: one line, exit status 2, no run folder."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sg3.cli.main import cli
from sg3.distributed.team import Team
from sg3.networks import build_network
from sg3.networks.augment import PRESETS
from sg3.training.config import AUGMENTATIONS, TrainConfig
from sg3.training.transfer import start_from

SMALL = (
    "--cfg stylegan3-t --batch 4 --mbstd-group 2 --kimg 0.004 --z-dim 8 --w-dim 8 --num-layers 4 "
    "--margin-size 4 --cbase 64 --cmax 8 --grid 3x2 --device cpu --workers 0"
)


def save_images(folder, size=(16, 16), count=6):
    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(count):
        pixels = random.randint(0, 255, [size[1], size[0], 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of images, by what is wrong with them."""
    world = tmp_path_factory.mktemp("world")
    save_images(world / "good")
    save_images(world / "odd", (20, 20))
    save_images(world / "wide", (100, 60))
    save_images(world / "tiny", (2, 2))
    save_images(world / "four", (4, 4))
    save_images(world / "mixed")
    Image.new("RGB", (32, 32)).save(world / "mixed" / "9.png")
    for name, labels in {
        "null": None,
        "flat": [1, 2, 3],
        "others": [["x.png", 1]],
    }.items():
        save_images(world / name)
        (world / name / "dataset.json").write_text(json.dumps({"labels": labels}))
    (world / "none.zip").write_bytes(b"PK\5\6" + bytes(18))  # an archive of nothing
    (world / "text").write_text("hello")
    return world


def refused(world, outdir, options):
    """Return the error line of `sg3 train` for `options`; `DATA/` is the folder of folders."""
    words = options.replace("DATA/", f"{world}/").split()
    result = CliRunner().invoke(cli, ["train", *SMALL.split(), "--outdir", str(outdir), *words])
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert not outdir.exists()
    return result.output


def test_a_dry_run_refuses_it_too(world, tmp_path):
    for options in ("--augpipe bgd", "--metrics fid5k_ful", "--cond", "--batch-gpu 3", "--glr nan"):
        error = refused(world, tmp_path / "runs", f"--dry-run --data DATA/good {options}")
        assert options.split()[-1] in error or options == "--cond"


@pytest.mark.parametrize(
    "options, message",
    [
        ("--data DATA/nowhere", "does not exist"),
        ("--data DATA/none.zip", "no image files found"),
        ("--data DATA/text", "neither a folder nor a .zip"),
        ("--data DATA/mixed", "9.png is 32x32 RGB, but 0.png is 16x16 RGB"),
        ("--data DATA/odd", "are 20x20, which no network supports; prepare them with: sg3 data"),
        ("--data DATA/wide", "are 100x60, which no network supports"),
        ("--data DATA/tiny", "are 2x2, which no network supports"),
        ("--data DATA/four", "are 4x4, which no network supports; prepare them with: sg3 data"),
        ("--data DATA/good --cond", "labels were asked for"),
        ("--data DATA/null --cond", "leave out --cond, or add them"),
        ("--data DATA/flat --cond", "expected pairs of a file's name and its label"),
        ("--data DATA/others --cond", "has labels, but none for these images"),
        (
            "--data DATA/good --batch-gpu 3",
            "--batch-gpu: got 3, expected 'auto' or a divisor of the 4 images per process of --ba",
        ),
        ("--data DATA/good --cfg stylegan2", "--num-layers, --margin-size: got a value, but --cfg"),
        ("--data DATA/good --resume nope", "neither a known name nor a file"),
        ("--data DATA/good --resume DATA/nope.pkl", "no such file"),
        ("--data DATA/good --resume DATA/text", "expected safetensors, an official"),
        ("--data DATA/good --resume DATA/good", "a folder without network-KIMG"),
        ("--data DATA/good --resume mini-faces", "--resume: the network does not fit"),
        ("--data DATA/good --metrics fid5k_ful", "unknown name 'fid5k_ful'"),
        ("--data DATA/good --augpipe bgd", "'--augpipe': 'bgd' is not one of 'blit'"),
        (
            "--data DATA/good --log wandd",
            "--log: got 'wandd', expected names of tensorboard, trackio, wandb",
        ),
        ("--data DATA/good --log trackio,", "--log: got '', expected names of"),
        (
            "--data DATA/good --diffaug colour",
            "--diffaug: got 'colour', expected some of color, tra",
        ),
        ("--data DATA/good --diffaug ,", "--diffaug: got nothing, expected some of color, transl"),
        (
            "--data DATA/good --freeze-g 6",
            "--freeze-g: got 6, expected at most 5: the layers of this G are input, L0, L1, L2,",
        ),
        (
            "--data DATA/good --discriminator projected",
            "--loss: got stylegan2, expected hinge for a projected D",
        ),
        (
            "--data DATA/good --discriminator projected --loss hinge --features maxi",
            "--features: got 'maxi', expected one of mini, mini-a, mini-b, timm:MODEL",
        ),
        (
            "--data DATA/good --discriminator projected --loss hinge --cond",
            "--cond, --freezed: got a value, but a projected D has neither",
        ),
        ("--data DATA/good --freeze-g 6 --dry-run", "--freeze-g: got 6, expected at most 5: the "),
        ("--data DATA/good --mirorr", "Did you mean one of: '--mirror', '--mirror-y'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(world, tmp_path, options, message):
    assert message in refused(world, tmp_path / "runs", options)


@pytest.mark.parametrize(
    "options",
    [
        *("--gamma nan", "--gamma inf", "--gamma -1", "--kimg 0", "--kimg inf", "--tick nan"),
        *("--glr nan", "--dlr inf", "--ema-kimg nan", "--glr-warmup-kimg nan", "--p nan"),
        *("--blur-percent nan", "--state-minutes nan", "--seed 4294967296", "--num-layers 2"),
        *("--posthoc-ema=0.1", "--posthoc-ema=0.1,0.1", "--posthoc-ema=0.1,0.3"),
        *("--posthoc-ema=nan,0.1", "--posthoc-ema=a,b", "--metric-every 0"),
        *("--grid 3000x3000", "--desc a/b", "--batch 0", "--freezed -1"),
    ],
)
def test_bad_numbers_are_refused_by_name(world, tmp_path, options):
    error = refused(world, tmp_path / "runs", f"--data DATA/good {options}")
    assert options.replace("=", " ").split()[0] in error


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dlr": -1.0}, r"dlr: got -1\.0, expected above 0"),
        ({"seed": -1}, "seed: got -1, expected 0 to 4294967295"),
        ({"blur_percent": 101.0}, "blur_percent: got 101.0, expected 0 to 100"),
        ({"batch": 0}, "batch: got 0, expected at least 1"),
        ({"augpipe": "bgd"}, "augpipe: got 'bgd', expected blit, geom"),
        ({"cfg": "stylegan2", "num_layers": 4}, "num_layers, margin_size: got a value, but `cfg`"),
        ({"desc": "a/b"}, "desc: got 'a/b', expected a folder name suffix"),
        ({"grid": (3000, 2)}, "grid: got 3000x2, expected 1 to 100 images per side"),
    ],
)
def test_python_errors_name_the_field(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainConfig("out", "data", **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"batch": 8, "batch_gpu": 3},
            "batch_gpu: got 3, expected 'auto' or a divisor of the 8 images per process of `batch`",
        ),
        ({"batch": 6}, "mbstd_group: got 4, expected a divisor of the 6 images per pass"),
        (
            {"batch": 8, "batch_gpu": 2},
            "batch_gpu: got 2, expected at least the 4 of `mbstd_group`",
        ),
    ],
)
def test_the_batch_must_split(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TrainConfig("out", "data", **options).resolved(16)


def test_augmentation_names_are_those_of_the_presets():
    assert tuple(PRESETS) == AUGMENTATIONS


def test_more_processes_than_gpus(world, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    error = refused(world, tmp_path / "runs", "--data DATA/good --device auto --gpus 3")
    assert "--gpus: got 3, but this machine has 2" in error
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 3 of a machine with 2 GPUs"):
        Team.join(torch.device("cuda"))


def test_a_start_that_fails_leaves_no_folder(world, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device", "reals.png")

    monkeypatch.setattr(Image.Image, "save", full)
    result = CliRunner().invoke(
        cli, ["train", *SMALL.split(), "--data", f"{world}/good", "--outdir", str(tmp_path)]
    )
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert (
        "(No space left on device): no training state exists yet; free disk space" in result.output
    )
    assert not list(tmp_path.iterdir())


def test_out_of_memory_is_one_line(world, tmp_path, monkeypatch):
    def never(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")

    monkeypatch.setattr("sg3.training.trainer.GANLoss.accumulate_gradients", never)
    result = CliRunner().invoke(
        cli, ["train", *SMALL.split(), "--data", f"{world}/good", "--outdir", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("Error: out of memory; try --batch-gpu auto")


def test_a_mapping_network_alone_is_no_fit():
    """Mapping layers of width 512 fit any run; the synthesis decides."""
    common = dict(z_dim=8, w_dim=8, num_layers=4, margin_size=4, channel_base=64)
    small = dict(common, channel_max=8, img_resolution=16, img_channels=3, c_dim=0)
    G = build_network("stylegan3", small)
    other = build_network("stylegan3", {**small, "channel_base": 256, "channel_max": 32})
    D = build_network(
        "discriminator",
        dict(c_dim=0, img_resolution=16, img_channels=3, channel_base=64, channel_max=8),
    )

    class Networks:
        G, G_ema, D = other, other, None

    with pytest.raises(ValueError, match="does not fit"):
        start_from(Networks, G, D, G)
