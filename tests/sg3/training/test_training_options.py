"""Official command lines, and the settings that follow from them (REFERENCE.md §4.8)."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sg3.cli.main import cli
from sg3.cli.plan import plan
from sg3.cli.train import train
from sg3.networks import build_network

OFFICIAL = (
    "outdir cfg data gpus batch gamma cond mirror aug resume freezed p target batch-gpu cbase cmax "
    "glr dlr map-depth mbstd-group desc metrics kimg tick snap seed fp32 nobench workers dry-run"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "faces"
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.RandomState(i).randint(0, 255, [16, 16, 3], np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def without_estimate(monkeypatch):
    """Leave out what a run would cost, which takes seconds and is tested in test_forecast."""
    monkeypatch.setattr("sg3.training.dry_run._estimate", lambda *args: {})


@pytest.mark.parametrize("command", ["train", "plan"])
def test_help_does_not_import_torch(command):
    code = f"""
import sys
from sg3.cli.main import cli
cli(["{command}", "--help"], standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--cbase" in done.stdout, done.stderr


def test_every_option_has_help_and_default():
    for option in [*train.params, *plan.params]:
        assert option.help, option.name
        known = option.required or option.is_flag or option.default is not None or option.unset
        assert known, option.name


def dry_run(data, tmp_path, command):
    """Return what `--dry-run` prints; check that it writes nothing."""
    words = ["train", f"--outdir={tmp_path}/runs", f"--data={data}", *command.split(), "--dry-run"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir())
    return json.loads(result.output)


def test_help_lists_the_official_options():
    known = {word for option in train.params for word in option.opts}
    assert {f"--{name}" for name in OFFICIAL.split()} <= known


def test_an_official_command_is_understood(data, tmp_path):
    record = dry_run(
        data,
        tmp_path,
        "--cfg=stylegan3-r --gpus=1 --batch=8 --gamma=6.6 --mirror=1 --cond=True --aug=fixed "
        "--p=0.3 --target=0.7 --batch-gpu=4 --cbase=256 --cmax=16 --glr=0.003 --dlr=0.001 "
        "--map-depth=3 --mbstd-group=2 --desc=try --metrics=none --kimg=5000 --tick=1 --snap=10 "
        "--seed=4 --fp32=1 --nobench=true --workers=2 --freezed=5",
    )
    assert record["folder"] == "stylegan3-r-faces-gpus1-batch8-gamma6.6-try"
    assert record["data"] == {"images": 12, "shape": [3, 16, 16], "label_dim": 2}
    G, D = record["G"], record["D"]
    # R has 1×1 kernels, and twice the channels in G alone.
    assert (G["channel_base"], G["channel_max"], G["conv_kernel"]) == (512, 32, 1)
    assert (D["channel_base"], D["channel_max"]) == (256, 16) and G["use_radial_filters"]
    assert G["mapping_kwargs"]["num_layers"] == 3 and G["c_dim"] == D["c_dim"] == 2
    assert D["epilogue_kwargs"]["mbstd_group_size"] == 2
    assert D["block_kwargs"]["freeze_layers"] == 5
    for kwargs in (G, D):
        assert kwargs["num_fp16_res"] == 0 and kwargs["conv_clamp"] is None
    assert record["loss"]["blur_init_sigma"] == 10
    assert record["loss"]["blur_fade_kimg"] == pytest.approx(8 * 200 / 32)
    assert record["options"]["ema_kimg"] == pytest.approx(8 * 10 / 32)
    network = build_network("discriminator", {k: v for k, v in D.items() if k != "kind"})
    frozen = set(network.state_dict()) - {name for name, _ in network.named_parameters()}
    frozen = {name.rsplit(".", 1)[0] for name in frozen if name.endswith("weight")}
    assert frozen == {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0"}


def test_defaults_of_stylegan2(data, tmp_path):
    record = dry_run(data, tmp_path, "--cfg=stylegan2 --batch=4 --gamma=1 --mirror=0 --cond 0")
    assert (
        record["folder"] == "stylegan2-faces-gpus1-batch4-gamma1" and record["data"]["images"] == 6
    )
    assert record["G"]["mapping_kwargs"]["num_layers"] == 8 and record["data"]["label_dim"] == 0
    assert record["options"]["glr"] == record["options"]["dlr"] == 0.002
    assert record["loss"]["style_mixing_prob"] == 0.9 and record["loss"]["pl_weight"] == 2
    assert record["loss"]["blur_init_sigma"] == 0


@pytest.mark.parametrize("words", ["--mirror --gamma 2", "--gamma 2 --mirror", "--mirror yes"])
def test_a_switch_needs_no_value(data, tmp_path, words):
    assert dry_run(data, tmp_path, f"--cfg stylegan3-t --batch 4 {words}")["options"]["mirror"]


@pytest.mark.parametrize("cfg", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_defaults_of_the_small_budget(data, tmp_path, cfg):
    record = dry_run(data, tmp_path, f"--cfg={cfg} --budget=small --batch=8")
    G, D, loss = record["G"], record["D"], record["loss"]
    factor = 2 if cfg == "stylegan3-r" else 1
    assert (G["channel_base"], G["channel_max"]) == (512 * factor, 64 * factor)
    assert (D["channel_base"], D["channel_max"]) == (512, 64)
    assert G["z_dim"] == G["w_dim"] == 64 and G["mapping_kwargs"]["num_layers"] == 2
    assert (loss["r1_gamma"], loss["r1_gamma_end"]) == (10, 1)
    assert loss["style_mixing_prob"] == loss["pl_weight"] == 0
    if cfg != "stylegan2":
        assert (G["num_layers"], G["margin_size"]) == (6, 3)


def test_what_is_given_counts_more_than_the_budget(data, tmp_path):
    words = (
        "--cfg=stylegan2 --budget=small --batch=8 --gamma=3 --cbase=256 --dcmax=16 --pl-weight=1"
    )
    record = dry_run(data, tmp_path, words)
    assert record["G"]["channel_base"] == record["D"]["channel_base"] == 256
    assert record["D"]["channel_max"] == 16 and record["loss"]["pl_weight"] == 1
    assert (record["loss"]["r1_gamma"], record["loss"]["r1_gamma_end"]) == (3, pytest.approx(0.3))


def test_without_regularization_there_is_no_gamma_to_approach(data, tmp_path):
    record = dry_run(data, tmp_path, "--cfg=stylegan2 --budget=small --batch=8 --gamma=0")
    assert record["loss"]["r1_gamma"] == 0 and record["loss"]["r1_gamma_end"] is None


@pytest.mark.parametrize(
    "options, lengths",
    [
        ("", []),
        ("--posthoc-ema=none", []),
        ("--posthoc-ema", [0.05, 0.1]),
        ("--posthoc-ema=0.03,0.2", [0.03, 0.2]),
    ],
)
def test_lengths_of_posthoc_ema(data, tmp_path, options, lengths):
    words = "--cfg=stylegan2 --batch=4 --cbase=64 --cmax=8 --device=cpu "
    record = dry_run(data, tmp_path, words + options)
    assert record["options"]["posthoc_ema"] == lengths


@pytest.mark.parametrize("cbase, gamma", [(2048, 10), (4096, 0.0002 * 16**2 / 8)])
def test_gamma_knows_small_networks(data, tmp_path, cbase, gamma):
    record = dry_run(data, tmp_path, f"--cfg=stylegan3-t --batch=8 --cbase={cbase}")
    assert record["options"]["gamma"] == pytest.approx(gamma)
    assert record["options"]["gamma_end"] == pytest.approx(gamma)
