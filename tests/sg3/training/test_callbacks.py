"""Callbacks of `train`, and the loggers: TensorBoard; wandb and trackio as fakes."""

import json
import sys
import time
import types
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import TINY_SG3, noise_images

from sg3.training import Callback, TrainConfig, TrainStep, train
from sg3.training.loggers import (
    MAX_GRID_PX,
    TensorBoardLogger,
    make_loggers,
    open_events,
    read_grid,
    scalars,
    write_events,
)

SMALL = TINY_SG3 | dict(tick=0.004, snap=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"), 8)


def config_of(data, outdir, num_images=16, **changes):
    return TrainConfig(
        outdir=str(outdir), data=data, kimg=num_images / 1000, **{**SMALL, **changes}
    )


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, run):
        assert run.folder.is_dir() and run.options["generator"]["z_dim"] == 8
        self.calls.append(("start", run.nimg, run.total_nimg, run.resumed))

    def on_tick(self, step):
        assert step.stats["Loss/G/loss"]["num"] > 0 and step.progress["kimg"] == step.nimg / 1000
        self.calls.append(("tick", step.nimg))

    def on_snapshot(self, step):
        assert step.snapshot.is_file() and step.grid.is_file()
        self.calls.append(("snapshot", step.nimg))

    def on_end(self, step):
        self.calls.append(("end", step and step.nimg, step and step.done))


def test_callbacks_are_called_in_order(data, tmp_path):
    seen = Recorder()
    list(train(config_of(data, tmp_path), callbacks=[seen]))
    assert seen.calls == [
        ("start", 0, 16, False),
        ("tick", 4), ("snapshot", 4), ("tick", 8), ("tick", 12), ("snapshot", 12),
        ("tick", 16), ("snapshot", 16), ("end", 16, True),
    ]  # fmt: skip
    again = Recorder()
    steps = train(config_of(data, tmp_path, 24, resume="latest"), callbacks=[again])
    next(steps)
    steps.close()  # the program ends early
    assert again.calls == [
        ("start", 16, 24, True), ("tick", 20), ("snapshot", 20), ("end", 20, False)
    ]  # fmt: skip


def test_an_error_in_a_callback_ends_the_run_and_calls_on_end(data, tmp_path):
    class Failing(Recorder):
        def on_tick(self, step):
            raise RuntimeError("mine")

    seen = Failing()
    with pytest.raises(RuntimeError, match="mine"):
        list(train(config_of(data, tmp_path), callbacks=[seen]))
    assert [call[0] for call in seen.calls] == ["start", "end"]


class Service(types.ModuleType):
    """A module with the functions of wandb and trackio that we call."""

    def __init__(self, name):
        super().__init__(name)
        self.inits, self.logged, self.finished, self.fail = [], [], 0, None

    def init(self, **settings):
        if self.fail == "init":
            raise OSError("no\nlogin")
        json.dumps(settings["config"])
        self.inits.append(settings)

    def log(self, values, step):
        if self.fail == "log":
            raise OSError("gone")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def Image(self, image, caption):
        return ("image", image.size, caption)


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    fake = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_a_service_gets_numbers_metrics_and_grids(data, tmp_path, service):
    name, metric = service.__name__, "fd0.02k_full_mini"
    options = {"log": (name,), "metrics": (metric,)}
    folder = list(train(config_of(data, tmp_path / "faces", **options)))[-1].folder
    (settings,) = service.inits
    assert settings["project"] == "faces" and settings["name"] == folder.name
    assert settings["resume"] == "allow" and settings["config"]["gamma"] == 10
    ticks = {step: values for step, values in service.logged if "Progress/kimg" in values}
    assert list(ticks) == [4, 8, 12, 16] and ticks[8]["Progress/kimg"] == 0.008
    assert "Loss/G/loss" in ticks[4] and "Loss/scores/real" in ticks[4]
    snapshots = {step: values for step, values in service.logged if "fakes" in values}
    assert list(snapshots) == [4, 12, 16] and snapshots[4][f"Metrics/{metric}"] > 0
    assert snapshots[4]["fakes"] == ("image", (48, 32), "fakes000000.png")
    assert service.finished == 1


def test_a_resumed_run_continues_the_same_run(data, tmp_path, service):
    options = {"log": (service.__name__,)}
    list(train(config_of(data, tmp_path, 8, **options)))
    list(train(config_of(data, tmp_path, 12, resume="latest", **options)))
    first, second = service.inits
    assert first["name"] == second["name"] and second["resume"] == "allow"
    if service.__name__ == "wandb":
        (folder,) = tmp_path.iterdir()
        assert first["id"] == second["id"] == (folder / "wandb-id.txt").read_text().strip()
        assert len(first["id"]) == 32 and first["dir"] == str(folder)


def test_a_service_that_does_not_start_leaves_no_folder(data, tmp_path, service):
    service.fail = "init"
    with pytest.raises(ValueError, match=rf"^log: {service.__name__} did not start: no login$"):
        list(train(config_of(data, tmp_path, log=(service.__name__,))))
    assert not list(tmp_path.iterdir())


def test_a_service_that_fails_later_ends_no_run(data, tmp_path, service):
    service.fail = "log"
    steps = list(train(config_of(data, tmp_path, log=(service.__name__,))))
    notes = [note for step in steps for note in step.notes if "advice" not in note]
    assert steps[-1].done
    assert notes == [f"{service.__name__} failed and gets no more data: gone"]


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_one_line_before_the_run(data, tmp_path, monkeypatch, name):
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError, match=rf"^log: {name} cannot be used \(.*\); pip install {name}$"
    ):
        list(train(config_of(data, tmp_path / "runs", log=(name,))))
    assert not (tmp_path / "runs").exists()


def test_packages_are_imported_only_when_asked_for(data, tmp_path, monkeypatch):
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would raise
    assert list(train(config_of(data, tmp_path, 4)))[-1].done
    assert make_loggers((), print) == []


def test_the_same_name_twice_is_one_logger(service):
    assert len(make_loggers((service.__name__,) * 2, print)) == 1


class Events:
    """A `SummaryWriter` that remembers."""

    def __init__(self):
        self.seen, self.images, self.closed = {}, [], False

    def add_scalar(self, name, value, global_step):
        self.seen[name] = (value, global_step)

    def add_image(self, name, image, global_step, dataformats):
        self.images.append((name, image.shape, global_step, dataformats))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def step_of(tmp_path: Path, **changes):
    progress = {"sec_per_kimg": 30.0, "note": "text", "eta_seconds": None}
    stats = {"Loss/scores/real": {"num": 3, "mean": 0.4, "std": 1.0}}
    return TrainStep(4000, 8000, 4000, tmp_path, "", progress=progress, stats=stats, **changes)


def test_scalars_are_every_number(tmp_path):
    assert scalars(step_of(tmp_path)) == {"Progress/sec_per_kimg": 30.0, "Loss/scores/real": 0.4}


@pytest.mark.parametrize("required", [False, True])
def test_tensorboard_gets_every_number_and_grids_if_named(tmp_path, required):
    logger, events = TensorBoardLogger(required), Events()
    logger._events = events
    Image.new("RGB", (48, 32)).save(tmp_path / "fakes000004.png")
    step = step_of(tmp_path, grid=tmp_path / "fakes000004.png", metrics={"fid": 7.0})
    logger.on_tick(step)
    logger.on_snapshot(step)
    logger.on_end(step)
    assert events.seen["Progress/sec_per_kimg"] == (30.0, 4000)
    assert events.seen["Metrics/fid"] == (7.0, 4000) and events.closed
    assert events.images == ([("fakes", (32, 48, 3), 4000, "HWC")] if required else [])


def test_large_grids_are_reduced(tmp_path):
    Image.new("L", (4 * MAX_GRID_PX, MAX_GRID_PX)).save(tmp_path / "grid.png")
    image = read_grid(tmp_path / "grid.png")
    assert image.size == (MAX_GRID_PX, MAX_GRID_PX // 4) and image.mode == "RGB"


@pytest.mark.parametrize("error", [ImportError("missing"), TypeError("other protobuf")])
def test_without_a_working_tensorboard_there_is_no_writer(monkeypatch, tmp_path, error):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise error

    name = "torch.utils.tensorboard"
    monkeypatch.setitem(sys.modules, name, Broken(name))
    assert open_events(tmp_path) is None
    with pytest.raises(type(error)):
        open_events(tmp_path, required=True)


def test_real_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((None, (1000, 2000, 3000)), (1000, (2000,))):
        writer = open_events(tmp_path, start)
        for nimg in steps:
            write_events(writer, {"Progress/sec_per_kimg": nimg / 100}, nimg)
        writer.close()
        time.sleep(1.1)  # event files are named by the second
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("Progress/sec_per_kimg")]
    assert seen == [(1000, 10.0), (2000, 20.0)]
