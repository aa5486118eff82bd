"""Snapshots: names that never collide, the best one, the schedule of metrics, post-hoc EMA."""

import json
import os

import program
import pytest
import torch
from tiny_runs import TINY_SG3, noise_images

import sg3
from sg3.checkpoints.snapshot_names import kimg_in_name, last_snapshot, snapshot_number
from sg3.files import link_or_copy, read_tensors
from sg3.metrics import registry
from sg3.training import run_writer
from sg3.training.config import TrainConfig
from sg3.training.loop import train
from sg3.training.progress_page import collect_charts
from sg3.training.run_folder import read_jsonl, state_paths
from sg3.training.snapshots import BestSnapshots

SMALL = TINY_SG3 | dict(tick=0.004)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("faces"))


def run(data, outdir, num_images, **changes):
    """Train up to `num_images` and return all steps."""
    options = SMALL | changes
    return list(train(TrainConfig(str(outdir), data, kimg=num_images / 1000, **options)))


def names(folder, pattern="network-*"):
    return [path.name for path in sorted(folder.glob(pattern))]


@pytest.mark.parametrize(
    "nimg, previous, number",
    [
        (32, None, "000000"),
        (8032, 4032, "000008"),  # whole kimg, as the official trainer names it
        (8512, 8032, "000008k512"),
        (8999, 8512, "000008k999"),
        (9000, 8999, "000009"),
        (25000032, 24999968, "25000"),
        (8, 4, "000000k008"),
    ],
)
def test_numbers_by_hand(nimg, previous, number):
    assert snapshot_number(nimg, previous) == number.zfill(6)


def test_names_are_in_order_of_time_and_tell_it():
    times = [32, 160, 288, 1024, 1152, 2000, 2999, 8000, 123456, 123999]
    numbers = [snapshot_number(t, p) for t, p in zip(times, [None, *times], strict=False)]
    assert len(set(numbers)) == len(times)
    for form in ("network-{}.safetensors", "fakes{}.png", "ema-{}.safetensors"):
        found = [form.format(number) for number in numbers]
        assert found == sorted(found)
        assert [kimg_in_name(name) for name in found[:4]] == [0, 0.160, 0.288, 1]
    assert kimg_in_name("runs/0/network-snapshot-000008.pkl") == 8
    assert kimg_in_name("best-fid50k_full.safetensors") is None
    assert kimg_in_name("posthoc-ema-0.1.safetensors") is None


def test_the_last_snapshot_of_a_folder(tmp_path):
    expected = (
        "network-000007.safetensors", "network-snapshot-000008.pkl", "network-000008.safetensors",
        "network-000008k512.safetensors", "network-000008k999.safetensors",
    )  # fmt: skip
    for name in expected:
        (tmp_path / name).touch()
        (tmp_path / "best-fid50k_full.safetensors").touch()
        assert last_snapshot(tmp_path).name == name


def test_no_snapshot_overwrites_another(data, tmp_path):
    folder = run(data, tmp_path, 16)[-1].folder
    numbers = ["000000", "000000k008", "000000k012", "000000k016"]
    assert names(folder) == [f"network-{number}.safetensors" for number in numbers]
    assert names(folder, "fakes0*") == [f"fakes{number}.png" for number in numbers]
    kimg = [sg3.load(folder / name).meta["kimg"] for name in names(folder)]
    assert kimg == [0.004, 0.008, 0.012, 0.016]
    assert sg3.load(folder).meta["kimg"] == 0.016


def test_a_resumed_run_replaces_only_what_came_after_its_state(data, tmp_path):
    folder = run(data, tmp_path, 16)[-1].folder
    state_paths(folder)[-1].unlink()  # as if the process had died before writing it
    before = {name: (folder / name).stat().st_ino for name in names(folder)}
    steps = run(data, tmp_path, 20, resume="latest")
    assert steps[0].start.startswith("resuming at 0.0 kimg") and steps[0].nimg == 16
    after = {name: (folder / name).stat().st_ino for name in names(folder)}
    assert list(after) == [*before, "network-000000k020.safetensors"]
    replaced = [name for name in before if before[name] != after[name]]
    assert replaced == ["network-000000k016.safetensors"]


def test_a_state_of_an_earlier_version_resumes_and_overwrites_nothing(data, tmp_path):
    folder = run(data, tmp_path, 8)[-1].folder
    path = state_paths(folder)[-1]
    state = torch.load(path, weights_only=True)
    del state["power_ema"], state["config"]["posthoc_ema"], state["config"]["metric_every"]
    state["output"] = {"doctor": state["output"]["doctor"]}
    torch.save(state, path)
    run(data, tmp_path, 12, resume="latest")
    assert len(names(folder)) == 3
    with pytest.raises(ValueError, match=r"^posthoc_ema: got \[0\.05, 0\.1\], but the run"):
        run(data, tmp_path, 16, resume="latest", posthoc_ema=(0.05, 0.1))


def test_every_kind_of_metric_has_a_direction():
    kinds = {registry.parse_name(name.format(n=5)).name("mini") for name in registry.EXAMPLES}
    assert len(kinds) > 10
    assert {registry.higher_is_better(name) for name in kinds} == {True, False}
    for higher in ("pr50k3_full", "is50k", "eqt50k_int", "eqr50k"):
        assert registry.higher_is_better(higher) is True
    for lower in ("fid50k_full", "kid5k", "fd2k_judge", "cmmd", "ppl2_wend", "mmd5k_full_mini"):
        assert registry.higher_is_better(lower) is False
    assert registry.higher_is_better("mine") is None


def result(metric, **values):
    return {"metric": metric, "results": values}


def test_the_best_by_hand(tmp_path):
    best = BestSnapshots()
    values = [(4, 20.0), (8, float("nan")), (12, 12.345), (16, 12.345), (20, 13.0)]
    lines = []
    for kimg, value in values:
        snapshot = tmp_path / f"network-{kimg:06d}.safetensors"
        snapshot.write_text(str(kimg))
        lines.append(best.add(result("fid50k_full", fid50k_full=value), kimg, snapshot))
    assert lines == [
        "best fid50k_full so far: 20 at 4 kimg", None,
        "best fid50k_full so far: 12.35 at 12 kimg", None, None,
    ]  # fmt: skip
    assert (tmp_path / "best-fid50k_full.safetensors").read_text() == "12"
    again = BestSnapshots()
    again.load_state(json.loads(json.dumps(best.state())))
    assert again.add(result("fid50k_full", fid50k_full=12.4), 24, None) is None
    # Precision, the first value, is better if higher; another metric starts anew.
    for value, expected in ((0.5, True), (0.4, False), (0.6, True)):
        found = again.add(result("pr5k3", pr5k3_precision=value, pr5k3_recall=0.1), 28, None)
        assert (found is not None) == expected
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_keeps_its_content(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError("no links")))
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("one")
    for _ in range(2):  # the second time both may be the same file already
        link_or_copy(source, target)
    assert os.path.samefile(source, target) == links
    (tmp_path / "c").write_text("two")
    os.replace(tmp_path / "c", source)
    assert target.read_text() == "one" and len(list(tmp_path.iterdir())) == 2


METRIC = "fd0.02k_full_mini"


@pytest.fixture
def scripted(monkeypatch):
    """The metric has these values, one after another."""
    values, asked = [9.0, 5.0, 7.0, 6.0, 6.5, 8.0, 4.0], []

    def evaluate(name, G, dataset, team, progress):
        asked.append(name)
        return result(name, **{name: values[len(asked) - 1]})

    monkeypatch.setattr(run_writer, "evaluate", evaluate)


def test_a_run_keeps_its_best_snapshot_also_when_resumed(data, tmp_path, scripted):
    steps = run(data, tmp_path, 16, metrics=(METRIC,))
    folder = steps[-1].folder
    best = folder / f"best-{METRIC}.safetensors"
    assert sg3.load(best).meta["kimg"] == 0.008
    assert sg3.load(folder).meta["kimg"] == 0.016
    notes = [note for step in steps for note in step.notes if note.startswith("best")]
    assert notes[-1] == f"best {METRIC} so far: 5 at 0.008 kimg" and len(notes) == 2
    assert notes[-1] in (folder / "log.txt").read_text().splitlines()
    run(data, tmp_path, 24, metrics=(METRIC,), resume="latest")  # 6.5 and 8: no better
    assert sg3.load(best).meta["kimg"] == 0.008
    run(data, tmp_path, 28, metrics=(METRIC,), resume="latest")
    assert sg3.load(best).meta["kimg"] == 0.028


@pytest.mark.parametrize("snap, every, expected", [(1, 2, [4, 12, 20, 24]), (2, 2, [4, 20, 24])])
def test_metrics_on_a_schedule_and_at_the_end(data, tmp_path, scripted, snap, every, expected):
    folder = run(data, tmp_path, 24, metrics=(METRIC,), snap=snap, metric_every=every)[-1].folder
    records = read_jsonl(folder / f"metric-{METRIC}.jsonl")
    assert [round(record["kimg"] * 1000) for record in records] == expected


@pytest.fixture(scope="module")
def averaged(data, tmp_path_factory):
    """The folder of a run with post-hoc EMA."""
    return run(data, tmp_path_factory.mktemp("runs"), 32, posthoc_ema=(0.05, 0.1))[-1].folder


def test_stored_averages_are_those_of_an_unbroken_run(data, averaged, tmp_path):
    run(data, tmp_path, 12, posthoc_ema=(0.05, 0.1))
    folder = run(data, tmp_path, 32, posthoc_ema=(0.05, 0.1), resume="latest")[-1].folder
    found = names(averaged, "ema-*")
    assert len(found) == 8 and found == names(folder, "ema-*")
    for name in found:
        (one, about_one), (other, about_other) = (
            read_tensors(place / name) for place in (averaged, folder)
        )
        assert about_one == about_other and one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_sg3_ema_writes_a_network(averaged, tmp_path):
    out = tmp_path / "net.safetensors"
    text = program.works("ema", averaged, "--length", 0.1, "--out", out)
    assert "sigma_rel 0.1, gamma 6.937, at 0.032 kimg, from 8 files; profile error 0.00%" in text
    nets = sg3.load(out)
    assert nets.G is None and nets.G_ema(torch.randn(2, 8)).shape == (2, 3, 16, 16)
    # A stored length is the stored average, up to half precision; buffers are those of the end.
    state = torch.load(state_paths(averaged)[-1], weights_only=True)
    last = sg3.load(averaged)
    for name, parameter in nets.G_ema.named_parameters():
        expected = state["power_ema"][1][name]
        assert torch.allclose(parameter, expected, rtol=2e-3, atol=1e-5), name
    for name, buffer in nets.G_ema.named_buffers():
        assert torch.equal(buffer, last.G_ema.get_buffer(name)), name
    program.works("ema", averaged, "--length", 0.2, "--at", 0.02)
    again = sg3.load(averaged / "posthoc-ema-0.2-at-0.02.safetensors")
    assert again.meta["kimg"] == 0.02 and again.meta["sigma_rel"] == 0.2
    assert sg3.load(averaged).meta["sha256"] == last.meta["sha256"]  # still the newest snapshot


def test_a_sweep_reports_the_best(averaged, data, tmp_path):
    out = tmp_path / "best.safetensors"
    options = ("--sweep", "0.05,0.1,0.2", "--metric", METRIC, "--data", data, "--out", out)
    lines = program.works("ema", averaged, *options, "--device", "cpu").splitlines()
    table = {float(line.split()[0]): float(line.split()[-1]) for line in lines[1:4]}
    assert list(table) == [0.05, 0.1, 0.2]
    best = min(table, key=table.get)
    assert f"best {METRIC}: {table[best]:.4g} at length {best:g}" in lines
    assert sg3.load(out).meta["sigma_rel"] == best
    records = read_jsonl(averaged / f"metric-{METRIC}.jsonl")
    assert [record["sigma_rel"] for record in records] == [0.05, 0.1, 0.2]
    assert records[1]["snapshot"] == "posthoc-ema-0.1.safetensors"
    # Without a time of training they stay out of the progress page's chart.
    assert METRIC not in json.dumps(collect_charts(averaged, []))


@pytest.mark.parametrize(
    "options, message",
    [
        ("", "give either --length or --sweep"),
        ("--length 0.1 --sweep 0.1,0.2", "give either --length or --sweep"),
        ("--length 0.1 --metric fd1k_full_mini", "--sweep and --metric need each other"),
        ("--length 0.1 --data faces", "--data needs --sweep"),
        ("--length 0.5", "--length: got 0.5, expected above 0 and below 0.2887"),
        ("--length 0.1 --at 7", "--at: got 7, expected 0.004 to 0.032"),
        ("--length 0.1 --out net.pkl", "net.pkl: expected a name ending in .safetensors"),
        ("--sweep 0.1,x --metric fd1k_full_mini", "--sweep: got '0.1,x', expected lengths like"),
        ("--sweep 0.1,0.4 --metric fd1k_full_mini", "got 0.4, expected above 0"),
        ("--sweep none --metric fd1k_full_mini", "got none, expected EMA lengths"),
        ("--sweep 0.1 --metric fid5k_ful", "unknown name 'fid5k_ful'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(averaged, options, message):
    before = names(averaged, "*")
    program.fails(message, "ema", averaged, *options.split())
    assert names(averaged, "*") == before


def test_a_folder_without_averages(tmp_path):
    program.fails("expected the folder of a run trained with", "ema", tmp_path, "--length", 0.1)
    program.fails("expected the folder of a run", "ema", tmp_path / "none", "--length", 0.1)
