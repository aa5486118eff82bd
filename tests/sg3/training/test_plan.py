"""`sg3 plan`: counted bytes, estimates, measured steps, the command."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

import sg3
from sg3.cli import main
from sg3.cli.plan import SIZE
from sg3.networks import build_network
from sg3.training import plan as plan_module
from sg3.training.architecture import discriminator_kwargs, generator_kwargs
from sg3.training.cards import CARDS
from sg3.training.config import TrainConfig
from sg3.training.cost_model import Rates, cost_of, paths_of
from sg3.training.plan import Estimate, Parts, pass_configs, plan, sizes
from sg3.training.plan_measure import Measured, RandomImages, _kinds_of_steps
from sg3.training.run_writer import snapshot_networks
from sg3.training.state import capture
from sg3.training.trainer import Trainer

SMALL = dict(
    outdir="", data="", aug="noaug", batch=8, mbstd_group=2, z_dim=8, w_dim=8, cbase=64, cmax=8,
    threads=1, device="cpu",
)  # fmt: skip
LAYERS = dict(num_layers=4, margin_size=4)
CUDA = torch.device("cuda")
RATES = Rates(
    half=4e12, single=1e12, fir_half=1e12, fir_single=1e12, bandwidth=1e11, launch=0, overlaps=True
)
MEMORY_FACTOR = 1.6  # the memory of an idle process depends on the build of torch


def config_of(cfg="stylegan3-t", **changes):
    layers = {} if cfg == "stylegan2" else LAYERS
    return TrainConfig(**(SMALL | layers | {"cfg": cfg} | changes))


def estimated(config, size=16, gpus=1, card="H100"):
    return list(plan(config, (3, size, size), gpus, card=CARDS[card]))


def test_ledger_counts_live_bytes_and_arithmetic():
    x = torch.empty([2, 4, 10, 10], device="meta", requires_grad=True)
    w = torch.empty([8, 4, 3, 3], device="meta")
    size = 4 * 2 * 10 * 10 * 4

    def chain():
        y = x.detach() * 2  # 1 of x
        y = y + 1  # 2, then 1 again
        y = torch.cat([y, y])  # 3
        del y

    assert cost_of(chain, CUDA, RATES, {}).peak == 3 * size
    flops = 2 * (2 * 10 * 10) * 8 * 4 * 9
    slow = dataclasses.replace(RATES, single=1.0)
    cost = cost_of(lambda: torch.conv2d(x, w, padding=1), CUDA, slow, {})
    assert cost.seconds == pytest.approx(flops)
    free = dataclasses.replace(RATES, bandwidth=1.0)
    moved = x.nbytes + w.nbytes + 2 * size
    cost = cost_of(lambda: torch.conv2d(x, w, padding=1), CUDA, free, {})
    assert cost.seconds == pytest.approx(moved)


def test_autograd_keeps_what_it_needs():
    x = torch.empty([1000], device="meta", requires_grad=True)
    kept = cost_of(lambda: x.exp().exp().exp(), CUDA, RATES, {}).peak
    assert kept == 3 * x.nbytes
    assert cost_of(lambda: x.detach().exp().exp().exp(), CUDA, RATES, {}).peak == 2 * x.nbytes


def test_constant_bytes_equal_a_hand_count():
    config = pass_configs(config_of(), 16, 1)[0]
    G = build_network(*generator_kwargs(config, (3, 16, 16), 0))
    D = build_network("discriminator", discriminator_kwargs(config, (3, 16, 16), 0))
    buffers = {name: sum(b.nbytes for b in net.buffers()) for name, net in (("G", G), ("D", D))}
    g, d = (sum(p.numel() for p in net.parameters()) for net in (G, D))
    weights = 2 * (4 * g + buffers["G"]) + 4 * d + buffers["D"]
    parts = Parts(config, (3, 16, 16), 0)
    assert parts.constant_bytes == weights + 8 * (g + d)
    found = sizes(config_of(), (3, 16, 16))
    assert (found.g_parameters, found.d_parameters) == (g, d)
    assert found.state_bytes == weights + 8 * (g + d) and found.snapshot_bytes == weights
    frozen = Parts(dataclasses.replace(config, freeze_mapping=True, freezed=2), (3, 16, 16), 0)
    assert frozen.num_trained("G") == sum(p.numel() for p in G.synthesis.parameters())
    assert frozen.num_trained("D") < d


def test_files_have_the_counted_size(tmp_path):
    config = config_of(z_dim=256, w_dim=256, batch=2)
    found = sizes(config, (3, 16, 16))
    trainer = Trainer(config.resolved(16), RandomImages((3, 16, 16)))
    for phase in trainer.phases:
        for parameter in phase.parameters:
            parameter.grad = torch.zeros_like(parameter)
        phase.optimizer.step()
    torch.save(capture(trainer), tmp_path / "state.pt")
    snapshot_networks(tmp_path / "network.safetensors", trainer, config)
    trainer.close()
    for name, counted in (("state.pt", found.state_bytes), ("network", found.snapshot_bytes)):
        (path,) = tmp_path.glob(f"{name}*")
        assert counted < path.stat().st_size < 1.1 * counted + 200_000
    assert sg3.load(str(tmp_path / "network.safetensors")).D is not None


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
def test_larger_passes_take_more_memory_and_no_more_time(cfg):
    rows = estimated(config_of(cfg, batch=4))
    assert [row.images_per_pass for row in rows] == [2, 4]
    memory = [row.memory_gib for row in rows]
    assert memory == sorted(set(memory))
    times = [row.seconds_per_kimg for row in rows]
    assert times == sorted(times, reverse=True) and times[-1] > 0
    assert all(row.source == "estimated" and not row.note for row in rows)
    assert rows[0].days == pytest.approx(times[0] * 25000 / 86400)


@pytest.mark.slow
def test_more_gpus_split_the_batch():
    (two,) = estimated(config_of(batch=4), gpus=2)
    assert two.images_per_pass == 2
    one, _ = estimated(config_of(batch=4))
    assert two.memory_gib < one.memory_gib  # fewer real images, one pass
    assert two.seconds_per_kimg < one.seconds_per_kimg


@pytest.mark.slow
def test_half_precision_saves_memory_on_cards():
    wide = dict(cbase=2048, cmax=64, batch=2)
    auto, single = (estimated(config_of(**wide, precision=p), 32) for p in ("auto", "fp32"))
    assert single[-1].memory_gib > 1.25 * auto[-1].memory_gib
    triton, without = (estimated(config_of(**wide), 32, card=c) for c in ("A100-80", "V100"))
    assert without[-1].memory_gib > 1.2 * triton[-1].memory_gib  # the upsampled signal is stored


@pytest.mark.slow
def test_augmentation_and_penalties_cost():
    (plain,) = estimated(config_of(batch=2))
    (augmented,) = estimated(config_of(batch=2, aug="ada", augpipe="bgcfnc"))
    assert augmented.memory_gib > plain.memory_gib
    (often,) = estimated(config_of(batch=2, d_reg_interval=1))
    assert often.seconds_per_kimg > plain.seconds_per_kimg


def test_a_projected_discriminator_is_estimated():
    config = config_of("stylegan2", batch=2, discriminator="projected", loss="hinge")
    (row,) = estimated(config)
    (usual,) = estimated(config_of("stylegan2", batch=2))
    assert row.seconds_per_kimg > usual.seconds_per_kimg  # its features are of 64 pixels


def test_only_stylegan2_has_a_path_length_phase():
    estimates = {}
    for cfg in ("stylegan3-t", "stylegan2"):
        config = pass_configs(config_of(cfg), 16, 1)[0]
        estimate = Estimate(Parts(config, (3, 16, 16), 0), CUDA, RATES, paths_of(CUDA))
        estimates[cfg] = estimate.phases(config)
    assert estimates["stylegan3-t"] == {"Gboth": 1, "Dmain": 1, "Dreg": 16}
    assert estimates["stylegan2"] == {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}


def test_kinds_of_steps():
    assert _kinds_of_steps([1, 1, 16]) == [(0, 1 / 16), (1, 15 / 16)]
    assert _kinds_of_steps([1, 4, 1, 16]) == [(0, 1 / 16), (1, 3 / 4), (4, 3 / 16)]
    assert _kinds_of_steps([1, 1]) == [(0, 1.0)]


@pytest.mark.slow
def test_measured_and_estimated_on_this_cpu():
    config = config_of(batch=2)
    (real,) = plan(config, (3, 16, 16), device="cpu", measure=True)
    (guess,) = plan(config, (3, 16, 16), device="cpu")
    assert (real.source, guess.source) == ("measured", "estimated")
    assert real.seconds_per_kimg > 0 and real.memory_gib > 0
    assert 1 / MEMORY_FACTOR < guess.memory_gib / real.memory_gib < MEMORY_FACTOR


def test_measuring_ends_when_memory_runs_out(monkeypatch):
    found = {2: Measured(2**30, 4.0), 4: Measured(0, 0)}
    monkeypatch.setattr(plan_module, "measure_steps", lambda c, *_: found[c.batch_gpu])
    first, last = plan(config_of(), (3, 16, 16), measure=True)
    assert (first.memory_gib, first.seconds_per_kimg) == (1.0, 500.0)
    assert last.memory_gib is None and "out of memory" in last.note


def test_note_if_a_run_does_not_fit_a_card():
    small = dataclasses.replace(CARDS["T4"], memory=0.25)
    (row,) = plan(config_of(batch=2), (3, 16, 16), card=small)
    assert "does not fit in 0.25 GiB" in row.note


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setitem(main.COMMANDS, "plan", ("sg3.cli.plan:plan", ""))
    return lambda line: CliRunner().invoke(main.cli, ["plan", *line.split()])


BASE = (
    "--cfg stylegan3-t --resolution 16 --num-layers 4 --margin-size 4 --cbase 64 --cmax 8 "
    "--batch 8 --mbstd-group 2"
)


@pytest.mark.slow
def test_command_prints_a_table_and_writes_json(run, tmp_path):
    result = run(f"{BASE} --gpus 2 --gpu h100 --kimg 10 --json {tmp_path}/plan.json")
    assert result.exit_code == 0, result.output
    assert "4 on each of 2 GPUs: on H100" in result.output and "counted:" in result.output
    lines = [line.split() for line in result.output.splitlines() if "estimated" in line]
    record = json.loads((tmp_path / "plan.json").read_text())
    assert [int(line[0]) for line in lines if line[0].isdigit()] == [2, 4]
    assert [row["images_per_pass"] for row in record["rows"]] == [2, 4]
    assert record["rows"][0]["source"] == "estimated" and record["sizes"]["source"] == "counted"
    assert record["place"] == "H100" and record["image_shape"] == [3, 16, 16]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--resolution 17x", "expected width and height like 256x256"),
        ("--resolution 100", "power of two"),
        ("--gpus 3", "expected a multiple of the 3 processes"),
        ("--mbstd-group 3", "--mbstd-group: got 3"),
        ("--gpu H100 --measure", "omit one of the two"),
        ("--gpu H100 --device cpu", "omit one of the two"),
        ("--augpipe nothing", "Invalid value for '--augpipe': 'nothing' is not one of"),
        ("--device tpu", "--device: got 'tpu'"),
        ("--json /nowhere/plan.json", "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line(run, options, message):
    result = run(f"{BASE} {options}")
    assert result.exit_code == 2 and message in result.output
    assert result.output.count("\n") == 1, result.output


def test_names():
    assert all(name == card.name for name, card in CARDS.items())
    assert SIZE.parser("1280x768") == (768, 1280) and SIZE.parser("64") == (64, 64)
