"""Parts of the page, without a browser."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import repository
import torch
from click.testing import CliRunner
from gradio_client import Client
from PIL import Image
from program import fails

gr = pytest.importorskip("gradio")

from app_tabs import pad, theme  # noqa: E402
from app_tabs.cache import write_images_once  # noqa: E402
from app_tabs.command import app_command, parse_auth  # noqa: E402
from app_tabs.context import Context, callback, readable  # noqa: E402
from app_tabs.page import launch  # noqa: E402
from app_tabs.wiring import command_line  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def context(tmp_path):
    return Context("mini-faces", "mini", torch.device("cpu"), tmp_path)


def visitor(name: str):
    """The part of Gradio's request that the page uses."""
    return SimpleNamespace(session_hash=name)


@pytest.mark.slow
def test_the_page_serves_nothing_but_its_folder(context, tmp_path):
    demo, address = launch(context, "127.0.0.1", None, share=False)
    try:
        assert demo.allowed_paths == [str(tmp_path.resolve())]
        assert demo.share is False
        assert not demo.analytics_enabled
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        assert demo.server_name == "127.0.0.1"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        assert status(port, "/") == status(port, "/", Host=f"localhost:{port}") == 200
        assert status(port, "/", Host="[::1]:7860") == 200
        for host in ("example.org", f"example.org:{port}", "127.0.0.1.example.org", "", "[::1"):
            assert status(port, "/config", Host=host) == 403
        for origin in ("http://example.org", "null", "http://localhost.example.org"):
            assert status(port, "/gradio_api/upload", "POST", Origin=origin) == 403
        assert status(port, "/gradio_api/upload", "POST", Origin=f"http://localhost:{port}") != 403
    finally:
        demo.close(verbose=False)


def status(port: int, path: str, method: str = "GET", **headers: str) -> int:
    """Return the status of the answer to a request with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.slow
def test_a_public_page_serves_results_but_no_files(tmp_path):
    context = Context("mini-faces", "mini", torch.device("cpu"), tmp_path, public=True)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "log.txt").write_text("of the owner")
    demo, address = launch(context, "127.0.0.1", None, share=False)
    try:
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        _, png = client.predict(seed=3, api_name="/generate")
        assert Image.open(png).size == (64, 64)
        folder = next(Path(context._temporary.name).iterdir())
        assert not any(path.name.startswith("generate") for path in tmp_path.iterdir())
        for file in (tmp_path / "train" / "log.txt", *folder.iterdir()):
            assert status(port, f"/gradio_api/file={file}") == 403
        assert status(port, "/config", Host="faces.example.org") == 200  # known by any name
    finally:
        demo.close(verbose=False)


def test_a_public_page_ignores_the_network_field(context, tmp_path):
    public = Context("mini-faces", "mini", torch.device("cpu"), tmp_path, public=True)
    assert public.name_of("/etc/passwd") == "mini-faces"
    assert context.name_of(" /etc/passwd ") == "/etc/passwd"
    assert context.name_of(None) == "mini-faces"


def test_a_network_is_loaded_once_and_jobs_have_their_own_copy(context):
    live, job = context.generator("mini-faces"), context.generator("mini-faces", "job")
    assert context.generator("mini-faces").G is live.G
    assert job.G is not live.G
    assert job.meta["sha256"] == live.meta["sha256"]


def test_the_session_of_a_visitor_who_left_is_freed(tmp_path):
    context = Context("mini-faces", "mini", torch.device("cpu"), tmp_path, public=True)
    ann, bob = visitor("ann"), visitor("bob")
    context.session(ann).results["x"] = 1
    stop = context.session(ann).begin("steer")
    folder = context.new_folder(context.session(ann), "steer")
    kept = context.new_folder(context.session(bob), "steer")
    context.forget(ann)
    assert stop.is_set()
    assert not folder.exists() and kept.exists()
    assert not context.session(ann).results


def test_the_number_of_sessions_is_limited(context):
    for i in range(100):
        context.session(visitor(str(i))).results["x"] = i
    assert len(context._sessions) == 64
    assert context.session(visitor("99")).results == {"x": 99}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "w" * 2001])
def test_values_that_no_field_allows_are_refused(context, value):
    wrapped = callback(context, lambda context, request, psi: psi, ["psi"])
    assert wrapped(visitor("ann"), 0.5) == 0.5
    with pytest.raises(gr.Error, match=r"psi: got .*, expected"):
        wrapped(visitor("ann"), value)


def test_the_curve_falls_from_top_to_bottom():
    drawn = theme.curves({"Loss": [3.0, 2.0, 1.0]})
    assert 'points="0.0,4.0 150.0,40.0 300.0,76.0"' in drawn
    assert "Loss from 3.000 to 1.000" in drawn
    assert "polyline" not in theme.curves({"Loss": [1.0]})


def test_status_escapes_what_users_typed():
    assert "<b>" not in theme.status("<b>")


def test_small_images_are_enlarged_grey_ones_too():
    assert theme.shown(np.zeros([64, 64, 3], np.uint8)).size == (640, 640)
    assert theme.shown(np.zeros([32, 64, 1], np.uint8)).size == (640, 320)
    assert theme.shown(np.zeros([1024, 1024, 3], np.uint8)).size == (1024, 1024)


def test_the_command_has_help_and_refuses_an_unknown_network(tmp_path):
    assert "Example:" in CliRunner().invoke(app_command, ["--help"]).output
    done = CliRunner().invoke(app_command, ["--network", "no-such-net"])
    assert isinstance(done.exception, ValueError)


def test_credentials_are_parsed():
    assert parse_auth(None) is None
    assert parse_auth("ann:se:cret") == ("ann", "se:cret")
    for bad in ("ann", "ann:", ":x"):
        with pytest.raises(click.UsageError, match="NAME:PASSWORD"):
            parse_auth(bad)


def test_commands_are_quoted_for_a_shell():
    line = command_line("steer", "a man's <b>hat</b>; rm -rf /", seed=3, lr=0.5, video=False)
    assert line == """sg3 steer 'a man'"'"'s <b>hat</b>; rm -rf /' --seed 3 --lr 0.5"""
    line = command_line("edit", alpha=[-1.0, 2.0], grid=True, latent=None, class_=4)
    assert line == "sg3 edit --alpha=-1 --alpha 2 --grid --class 4"


def test_points_of_the_map():
    assert pad.parse("0.25,-1") == (0.25, -1)
    assert pad.parse(None) == (0, 0)
    for bad in ("1", "a,b", "2,0", "nan,0", "<b>"):
        with pytest.raises(ValueError, match="map: got"):
            pad.parse(bad)


def test_errors_are_one_escaped_line(capsys):
    with pytest.raises(gr.Error) as caught, readable():
        raise ValueError("text: got <b>\n  nothing")
    assert str(caught.value.message) == "text: got &lt;b&gt; nothing"
    assert not capsys.readouterr().err
    with pytest.raises(gr.Error), readable():
        raise KeyError("surprise")
    assert "surprise" in capsys.readouterr().err


def test_an_image_in_the_cache_is_not_written_again(tmp_path, monkeypatch):
    from gradio import processing_utils
    from gradio.image_utils import save_image

    monkeypatch.setattr(processing_utils, "save_pil_to_cache", None)  # restored at the end
    write_images_once()
    image = theme.shown(np.full([64, 64, 3], 7, np.uint8))
    path = save_image(image, str(tmp_path), "png")
    expected = Image.open(path).convert("RGB").tobytes()
    inode = os.stat(path).st_ino
    monkeypatch.setattr(Path, "write_bytes", None)  # used by Gradio; would fail if called
    assert save_image(image, str(tmp_path), "png") == path
    assert os.stat(path).st_ino == inode
    assert Image.open(path).convert("RGB").tobytes() == expected == image.tobytes()
    assert [p.name for p in Path(path).parent.iterdir()] == [Path(path).name]
    other = theme.shown(np.full([64, 64, 3], 8, np.uint8))
    assert save_image(other, str(tmp_path), "png") != path


def run_beside_a_foreign_app(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a folder whose app.py is not ours; the repository is on its path."""
    (folder / "app.py").write_text("raise RuntimeError('the wrong app.py')\n")
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository.ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_runs_in_a_folder_with_another_app(tmp_path):
    done = run_beside_a_foreign_app(tmp_path, "-m", "sg3", "app", "--help")
    assert done.returncode == 0 and "sg3 app --port 7860" in done.stdout, done.stderr
    done = run_beside_a_foreign_app(tmp_path, "-c", "from app_tabs.page import launch")
    assert done.returncode == 0, done.stderr


def test_without_gradio_the_command_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    fails("pip install 'sg3[app]'", "app", "--outdir", tmp_path)


def test_help_imports_neither_torch_nor_gradio():
    code = "import app_tabs.command, sys; sys.exit(bool({'torch', 'gradio'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
