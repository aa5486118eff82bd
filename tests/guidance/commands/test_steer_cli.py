"""`sg3 steer` on an official-format file with an open_clip model from a local file."""

from __future__ import annotations

import json

import imageio_ffmpeg
import pytest
import repository
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import sg3
from guidance.commands.common import slug
from sg3.cli.main import cli

GOLDEN = repository.GOLDEN
NETWORK = str(GOLDEN / "official-sg3t-32.pkl")
TINY = "tiny-cli-clip"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{TINY}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(TINY, pretrained=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "w.safetensors")
    return f"{TINY}/{folder}/w.safetensors"


def call(*arguments: str):
    result = CliRunner().invoke(cli, ["steer", *arguments])
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    return result, lines


@pytest.mark.slow
def test_all_files_are_written(clip, tmp_path):
    out = tmp_path / "deep" / "out"
    options = ["--steps", "4", "--candidates", "3", "--seed", "2", "--outdir", str(out)]
    result, _ = call("a red hat", "a man:0.5", "--network", NETWORK, "--clip", clip, *options)
    assert result.exit_code == 0, result.output
    names = ["start.png", "steer.mp4", "contact_sheet.png", "end.png", "latent.safetensors"]
    names.append("losses.jsonl")
    assert result.output.split() == [str(out / name) for name in [*names, "run.json"]]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "run.json"])
    assert Image.open(out / "end.png").size == (32, 32)

    with safe_open(out / "latent.safetensors", "pt") as file:
        ws, metadata = file.get_tensor("ws"), file.metadata()
    nets = sg3.load(NETWORK)
    assert ws.shape == (1, nets.G_ema.num_ws, nets.G_ema.w_dim)
    assert metadata["network_sha256"] == nets.meta["sha256"]
    assert json.loads(metadata["prompts"]) == ["a red hat", "a man:0.5"]
    image = nets.G_ema.synthesis(ws, noise_mode="const")
    from sg3.media import to_uint8

    saved = torch.frombuffer(bytearray(Image.open(out / "end.png").tobytes()), dtype=torch.uint8)
    again = torch.from_numpy(to_uint8(image).reshape(-1))
    assert (saved.int() - again.int()).abs().max() <= 1

    run = json.loads((out / "run.json").read_text())
    assert run["command"] == "steer" and run["finished"] and run["arguments"]["seed"] == 2
    assert run["inputs"] == {NETWORK: nets.meta["sha256"]}
    assert run["results"]["start"]["step"] == 0 and run["results"]["end"]["step"] == 4
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out / "steer.mp4"))
    assert frames == 5 + 10  # the steps, then a second of the last one
    assert seconds == pytest.approx(1.5, abs=0.2)


def test_no_video_and_seed_start(clip, tmp_path):
    options = ["--no-video", "--steps", "1", "--start", "seed", "--trunc", "1", "--seed", "5"]
    result, _ = call("x", "--network", NETWORK, "--clip", clip, "--outdir", str(tmp_path), *options)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "steer.mp4").exists()
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["arguments"]["truncation"] == 1.0


@pytest.mark.slow
def test_stopping_writes_the_files(clip, tmp_path, monkeypatch):
    import guidance.steering.record

    add = guidance.steering.record.SteeringRecord.add

    def stop_at_three(self, step):
        add(self, step)
        if step.index == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("guidance.steering.record.SteeringRecord.add", stop_at_three)
    result, _ = call(
        "x", "--network", NETWORK, "--clip", clip, "--outdir", str(tmp_path), "--candidates", "2"
    )
    assert result.exit_code == 130
    assert "Stopped" in result.output
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["finished"] is False
    assert run["results"]["end"]["step"] == 3
    names = {path.name for path in tmp_path.iterdir()}
    assert {"start.png", "end.png", "contact_sheet.png", "steer.mp4", "latent.safetensors"} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "prompt"),
        (["a", " "], "prompt"),
        ([], "Missing argument"),
        (["a", "--clip", "minni"], "nearest: mini"),
        (["a", "--clip", "ViT-B-32/none.pt"], "no file"),
        (["a", "--network", "stylegan3-t-fhq"], "stylegan3-t-ffhq"),
        (["a", "--network", __file__], "Error"),
        (["a", "--lr", "-1"], "lr"),
        (["a", "--class", "3"], "no classes"),
        (["a", "--device", "quantum"], "device"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(clip, tmp_path, arguments, message):
    defaults = {"--network": NETWORK, "--clip": clip, "--outdir": str(tmp_path / "out")}
    for name, value in defaults.items():
        if name not in arguments:
            arguments = [*arguments, name, value]
    result, lines = call(*arguments)
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "start.png").exists()


def test_an_unwritable_folder_is_noticed_before_the_work(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("guidance.commands.steer.load_models", None)  # would fail if it were called
    (tmp_path / "file").write_text("")
    result, lines = call("a", "--network", NETWORK, "--outdir", str(tmp_path / "file" / "out"))
    assert result.exit_code == 2
    assert len(lines) == 1 and "is not a folder; choose another folder" in lines[0]


def test_slugs():
    assert slug("A man, with: a RED hat!") == "a-man-with-a-red-hat"
    assert slug("…") == "prompt"
    assert len(slug("word " * 50)) <= 40
