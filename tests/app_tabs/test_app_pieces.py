"""What the page is made of, without a browser or a server."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

app = pytest.importorskip("app", reason="gradio is not installed")

from app_tabs import pad, theme  # noqa: E402
from app_tabs.cache import write_pictures_once  # noqa: E402
from app_tabs.context import Context, readable  # noqa: E402
from app_tabs.wiring import command_line  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def context(tmp_path):
    return Context("mini-faces", "mini", torch.device("cpu"), tmp_path)


def visitor(name: str):
    """What Gradio hands a callback, as far as we look at it."""
    return SimpleNamespace(session_hash=name)


def test_the_page_serves_nothing_but_its_folder(context, tmp_path):
    demo, address = app.launch(context, "127.0.0.1", None, share=False)
    try:
        assert demo.allowed_paths == [str(tmp_path.resolve())]
        assert demo.share is False
        assert not demo.analytics_enabled
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        assert demo.server_name == "127.0.0.1"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        demo.close(verbose=False)


def test_a_public_page_ignores_the_network_field(context, tmp_path):
    public = Context("mini-faces", "mini", torch.device("cpu"), tmp_path, public=True)
    assert public.name_of("/etc/passwd") == "mini-faces"
    assert context.name_of(" /etc/passwd ") == "/etc/passwd"
    assert context.name_of(None) == "mini-faces"


def test_a_network_is_loaded_once_and_jobs_have_a_copy_of_their_own(context):
    live, job = context.generator("mini-faces"), context.generator("mini-faces", "job")
    assert context.generator("mini-faces").G is live.G
    assert job.G is not live.G
    assert job.meta["sha256"] == live.meta["sha256"]


def test_what_a_visitor_leaves_is_freed(tmp_path):
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


def test_only_so_many_visitors_are_remembered(context):
    for i in range(100):
        context.session(visitor(str(i))).results["x"] = i
    assert len(context._sessions) == 64
    assert context.session(visitor("99")).results == {"x": 99}


def test_the_curve_falls_from_top_to_bottom():
    drawn = theme.curves({"Loss": [3.0, 2.0, 1.0]})
    assert 'points="0.0,4.0 150.0,40.0 300.0,76.0"' in drawn
    assert "Loss from 3.000 to 1.000" in drawn
    assert "polyline" not in theme.curves({"Loss": [1.0]})


def test_status_escapes_what_users_typed():
    assert "<b>" not in theme.status("<b>")


def test_small_pictures_are_shown_large_and_grey_ones_too():
    assert theme.shown(np.zeros([64, 64, 3], np.uint8)).size == (640, 640)
    assert theme.shown(np.zeros([32, 64, 1], np.uint8)).size == (640, 320)
    assert theme.shown(np.zeros([1024, 1024, 3], np.uint8)).size == (1024, 1024)


def test_the_command_has_help_and_refuses_an_unknown_network(tmp_path):
    assert "Example:" in CliRunner().invoke(app.app_command, ["--help"]).output
    done = CliRunner().invoke(app.app_command, ["--network", "no-such-net"])
    assert isinstance(done.exception, ValueError)


def test_a_password_is_asked_for_in_one_piece():
    assert app.parse_auth(None) is None
    assert app.parse_auth("ann:se:cret") == ("ann", "se:cret")
    for bad in ("ann", "ann:", ":x"):
        with pytest.raises(click.UsageError, match="NAME:PASSWORD"):
            app.parse_auth(bad)


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
    with pytest.raises(app.gr.Error) as caught, readable():
        raise ValueError("text: got <b>\n  nothing")
    assert str(caught.value.message) == "text: got &lt;b&gt; nothing"
    assert not capsys.readouterr().err
    with pytest.raises(app.gr.Error), readable():
        raise KeyError("surprise")
    assert "surprise" in capsys.readouterr().err


def test_a_picture_that_is_being_fetched_is_not_written_again(tmp_path, monkeypatch):
    from gradio import processing_utils
    from gradio.image_utils import save_image

    monkeypatch.setattr(processing_utils, "save_pil_to_cache", None)  # put back afterwards
    write_pictures_once()
    picture = theme.shown(np.full([64, 64, 3], 7, np.uint8))
    path = save_image(picture, str(tmp_path), "png")
    expected = Image.open(path).convert("RGB").tobytes()
    inode = os.stat(path).st_ino
    monkeypatch.setattr(Path, "write_bytes", None)  # as Gradio writes: would fail if it were called
    assert save_image(picture, str(tmp_path), "png") == path
    assert os.stat(path).st_ino == inode
    assert Image.open(path).convert("RGB").tobytes() == expected == picture.tobytes()
    assert [p.name for p in Path(path).parent.iterdir()] == [Path(path).name]
    other = theme.shown(np.full([64, 64, 3], 8, np.uint8))
    assert save_image(other, str(tmp_path), "png") != path
