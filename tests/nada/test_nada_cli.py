"""`sg3 adapt`: its files, resuming, interruptions, invalid input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import click
import imageio_ffmpeg
import pytest
import repository
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import sg3
from nada.adaptation_record import AdaptationRecord
from nada.commands.adapt import adapt
from nada.state import read_state
from sg3.checkpoints.delta import apply_deltas, load_delta
from sg3.cli.main import cli
from sg3.errors import UserError

GOLDEN = repository.GOLDEN
NETWORK = str(GOLDEN / "official-sg3t-32.pkl")
#: Small, and independent of the defaults.
QUICK = {
    "--source": "face", "--target": "zombie", "--network": NETWORK, "--clip": "mini-a",
    "--device": "cpu", "--batch": "1", "--views": "1", "--layers": "paper", "--steps": "3",
    "--check-every": "2", "--lr": "0.01", "--warmup": "0", "--decay": "0", "--image-every": "2",
}  # fmt: skip


def command(outdir, *flags: str, **options: str | None) -> list[str]:
    """Arguments: `QUICK` with `options` (None leaves one out), then `flags`."""
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    merged = {k: v for k, v in (QUICK | named | {"--outdir": str(outdir)}).items() if v is not None}
    return ["adapt", *(part for pair in merged.items() for part in pair), *flags]


def call(outdir, *flags: str, **options: str | None):
    result = CliRunner().invoke(cli, command(outdir, *flags, **options))
    return result, [line for line in result.output.splitlines() if line.startswith("Error")]


def refused(outdir, *flags: str, **options: str | None) -> str:
    """The error message of the command."""
    result, lines = call(outdir, *flags, **options)
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


def weights(path) -> dict[str, torch.Tensor]:
    return sg3.load(path).G_ema.state_dict()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(outdir) -> list[tuple]:
    lines = (outdir / "stats.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"], r.get("agreement")) for r in map(json.loads, lines)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of three steps, and what it printed."""
    out = tmp_path_factory.mktemp("adapt") / "deep" / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nada.adaptation_record.WALK_FRAMES", 5)
        result, _ = call(out)
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.slow
def test_a_run_writes_all_files(done):
    out, printed = done
    names = ["stats.jsonl", "before.png", "step0002.png", "state.safetensors", "curves.svg"]
    names += ["delta.safetensors", "adapted.safetensors", "step0003.png", "sheet.png"]
    names += ["interpolation.mp4", "run.json"]
    assert printed.splitlines()[-len(names) :] == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert printed.startswith("All steps done: 3 steps in ")
    for word in ("agreement", "length", "diversity", "power relative to the source", "delta: "):
        assert word in printed

    run = json.loads((out / "run.json").read_text())
    assert run["command"] == "adapt" and run["finished"]
    assert run["arguments"]["target"] == "zombie" and run["arguments"]["lr"] == 0.01
    assert run["arguments"]["views"]["views"] == 1
    assert run["inputs"] == {NETWORK: sg3.load(NETWORK).meta["sha256"]}
    assert run["outputs"] == names[:-1]
    results = run["results"]
    assert results["reason"] == "all steps done" and results["steps"] == 3
    assert results["delta_keeps"] > 0.9999 and set(results["spectrum_db"]) == {
        "top_octave", "axes", "diagonal",
    }  # fmt: skip


def test_the_network_is_the_source_plus_the_delta(done):
    out, _ = done
    source, adapted = sg3.load(NETWORK), sg3.load(out / "adapted.safetensors")
    delta = load_delta(out / "delta.safetensors")
    again = apply_deltas(source.G_ema, [(delta, 1.0)])
    assert same(again.state_dict(), adapted.G_ema.state_dict())
    assert not same(source.G_ema.state_dict(), adapted.G_ema.state_dict())
    for meta in (adapted.meta, delta.meta):
        assert meta["texts"] == ["face", "zombie"] and meta["steps"] == 3
        assert meta["adapted_from"]["sha256"] == source.meta["sha256"]


def test_images_video_and_curves(done):
    out, _ = done
    assert Image.open(out / "before.png").size == Image.open(out / "step0003.png").size
    assert Image.open(out / "before.png").tobytes() != Image.open(out / "step0003.png").tobytes()
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out / "interpolation.mp4"))
    assert frames == 6 * 5 and seconds == pytest.approx(5, abs=0.5)
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert ["agreement" in line for line in lines] == [True, False, True, True]
    assert lines[0]["loss"] is None and lines[1]["losses"]["directional"] > 0
    assert ET.parse(out / "curves.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_resuming_equals_an_uninterrupted_run(done, tmp_path):
    out, _ = done
    call(tmp_path, "--no-video", steps="1")
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"step": 2, "loss": 99}\n{"step": 3, "lo')  # of a process that was killed
    result, _ = call(tmp_path, "--no-video", "--resume")
    assert result.exit_code == 0, result.output
    assert same(weights(tmp_path / "adapted.safetensors"), weights(out / "adapted.safetensors"))
    expected, got = losses(out), losses(tmp_path)
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    assert got[2:] == expected[2:]
    finished = read_state(tmp_path / "state.safetensors")
    assert finished.state["watch"] == read_state(out / "state.safetensors").state["watch"]


@pytest.mark.slow
def test_a_finished_run_is_left_alone(done):
    out, _ = done
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "--resume continues it" in refused(out)
    line = refused(out, "--resume", lr="0.02", seed="4")
    assert "lr 0.02 (was 0.01)" in line and "seed 4 (was 0)" in line
    assert "clip" in refused(out, "--resume", clip="mini-b")
    assert "target" in refused(out, "--resume", target="robot")
    assert "network" in refused(out, "--resume", network="mini-faces")
    assert "steps: got 2" in refused(out, "--resume", steps="2")
    result, _ = call(out, "--resume")
    assert result.exit_code == 0 and result.output.startswith(
        "Nothing to do: all steps done after 3 steps"
    )
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_log_of_another_run_is_left_alone(tmp_path):
    (tmp_path / "stats.jsonl").write_text('{"Loss/G/loss": 1}\n')
    assert "holds a run" in refused(tmp_path)
    assert "holds another run" in refused(tmp_path, "--resume")
    assert (tmp_path / "stats.jsonl").read_text() == '{"Loss/G/loss": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["stats.jsonl"]


@pytest.mark.slow
def test_a_signal_stops_after_the_step(tmp_path, monkeypatch):
    add = AdaptationRecord.add

    def signalled(self, step):
        if step.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, step)

    monkeypatch.setattr(AdaptationRecord, "add", signalled)
    old = signal.getsignal(signal.SIGTERM)
    result, _ = call(tmp_path, "--no-video")
    assert result.exit_code == 0 and signal.getsignal(signal.SIGTERM) is old
    assert "Stopped after step 1 of 3" in result.output and "--resume" in result.output
    assert json.loads((tmp_path / "run.json").read_text())["finished"] is False
    names = {"state", "adapted", "delta"}
    assert {f"{name}.safetensors" for name in names} <= {p.name for p in tmp_path.iterdir()}
    monkeypatch.setattr(AdaptationRecord, "add", add)
    result, _ = call(tmp_path, "--no-video", "--resume")
    assert result.exit_code == 0 and "All steps done: 3 steps" in result.output


@pytest.mark.slow
def test_ctrl_c_writes_the_result_so_far(tmp_path):
    arguments = command(tmp_path / "out", "--no-video", "--no-stop", steps="100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "sg3", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        stats = tmp_path / "out" / "stats.jsonl"
        while not (stats.exists() and len(stats.read_text().splitlines()) > 2):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "Stopped after step" in printed
    assert read_state(tmp_path / "out" / "state.safetensors").index >= 2
    assert (tmp_path / "out" / "sheet.png").exists()


@pytest.mark.slow
def test_stylegan2_target_images_several_encoders_and_low_rank(tmp_path):
    for i, colour in enumerate(["red", "#800000"]):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{i}.png")
    options = {"target_images": str(tmp_path), "target": None, "network": "official-sg2ada-32.pkl"}
    options["network"] = str(GOLDEN / options["network"])
    result, _ = call(
        tmp_path / "out", "--clip", "mini-b:2", "--no-video", "--rank", "1", "--no-stop", **options
    )
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["arguments"]["clip"] == "mini-a,mini-b:2"
    assert run["arguments"]["stop"] is None and 0.01 < run["results"]["delta_keeps"] < 0.9999
    state = read_state(tmp_path / "out" / "state.safetensors")
    assert state.arguments["clip"] == "mini-a,mini-b:2" and state.arguments["target_images"]
    Image.new("RGB", (50, 40), "blue").save(tmp_path / "0.png")
    line = refused(
        tmp_path / "out", "--clip", "mini-b:2", "--no-stop", "--resume", steps="4", **options
    )
    assert "target_images" in line


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_state(tmp_path):
    call(tmp_path, "--no-video", steps="1")
    state = (tmp_path / "state.safetensors").read_bytes()
    add = AdaptationRecord.add

    class Broken(AdaptationRecord):
        def add(self, step):
            object.__setattr__(step, "loss", float("nan"))
            add(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nada.adaptation_record.AdaptationRecord", Broken)
        assert "lr: the loss is nan at step 2" in refused(tmp_path, "--resume")
    assert (tmp_path / "state.safetensors").read_bytes() == state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "options", "message"),
    [
        ([], {"source": None}, "source"),
        ([], {"target": " "}, "target"),
        (
            [],
            {"target": "face"},
            "no difference between 'face' and 'face'",
        ),
        ([], {"target": "face"}, "use other words, or --target-images"),
        ([], {"layers": "L3,L99"}, "L99"),
        ([], {"clip": "minni"}, "nearest: mini"),
        ([], {"network": "mini-face"}, "mini-faces"),
        ([], {"lr": "-1"}, "--lr: got -1"),
        ([], {"templates": "imagnet"}, "templates"),
        ([], {"magnitude": "-1"}, "--magnitude: got -1"),
        ([], {"magnitude_weight": "-1"}, "--magnitude-weight: got -1"),
        ([], {"patch": "-1"}, "--patch: got -1"),
        ([], {"diversity_floor": "-1"}, "--diversity-floor: got -1"),
        ([], {"device": "quantum"}, "device"),
        ([], {"class": "1"}, "class"),
        ([], {"rank": "0"}, "--rank: got 0, expected at least 1"),
        (["--no-stop", "--patience", "3"], {}, "--no-stop"),
        ([], {"target_images": str(GOLDEN)}, "target-images: no image files"),
        ([], {"target_images": "/nowhere"}, "does not exist"),
    ],
)
def test_invalid_input_is_one_line_and_leaves_nothing(tmp_path, flags, options, message):
    assert message in refused(tmp_path / "out", *flags, **options)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_noticed_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(sg3, "load", None)  # would fail if it were called
    (tmp_path / "file").write_text("")
    assert "file" in refused(tmp_path / "file" / "out")


@pytest.mark.slow
def test_templates_from_a_file(tmp_path):
    (tmp_path / "t.txt").write_text("a {}\n\na nice {}\n")
    result, _ = call(tmp_path / "out", "--no-video", templates=str(tmp_path / "t.txt"), steps="0")
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["arguments"]["templates"] == ["a {}", "a nice {}"]


def test_help_shows_every_default_and_does_not_import_torch():
    code = "import sys; from sg3.cli.main import main; sys.argv[0] = 'sg3'\ntry: main()\n"
    code += "finally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "adapt", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.endswith("False\n")
    for param in adapt.params:
        assert param.help, param.name
        if not (param.is_flag or param.multiple):
            text = param.get_help_record(click.Context(adapt))[1]
            assert "[default: " in text, param.name


# --- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_state_is_one_line(tmp_path, content):
    path = tmp_path / "state.safetensors"
    if content is None:
        save_file({"a": torch.zeros(1)}, path, {"format": "sg3-adaptation", "version": "1"})
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_state(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
