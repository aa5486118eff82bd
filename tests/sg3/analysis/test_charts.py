"""Charts: reproducible files, text as text, no global state."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sg3.analysis import charts
from sg3.errors import UserError


def figure(title: str = "a < b & $c$"):
    made = charts.new_figure(4, 2.5)
    left, right = made.subplots(1, 2)
    charts.style_axes(left, title, "step", "loss")
    left.plot([0, 1, 2], [3, 1, 2], color=charts.COLORS[1], label="$x_1$")
    charts.add_legend(left)
    charts.show_image(right, np.full([4, 4, 3], [200, 10, 30], np.uint8), "image")
    return made


@pytest.mark.slow
def test_equal_figures_give_equal_files(tmp_path):
    for suffix in (".svg", ".png"):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        charts.save_figure(figure(), first)
        charts.save_figure(figure(), second)
        assert first.read_bytes() == second.read_bytes()


def test_saving_again_does_not_move_the_axes():
    made = figure()
    first = charts.svg_text(made)
    charts.svg_text(made)
    assert charts.svg_text(made) == first


def test_text_is_text_and_no_formula():
    root = ElementTree.fromstring(charts.svg_text(figure()))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b & $c$", "$x_1$", "step", "loss"} <= set(texts)


def test_png_has_its_size_and_colors(tmp_path):
    charts.save_figure(figure(), tmp_path / "a.png")
    image = np.asarray(Image.open(tmp_path / "a.png"))[:, :, :3]
    assert image.shape == (2.5 * charts.PNG_DPI, 4 * charts.PNG_DPI, 3)
    assert (image == [200, 10, 30]).all(axis=2).sum() > 5000
    assert (image[0, 0] == 255).all()


def test_other_suffixes_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        charts.save_figure(figure(), tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())


def test_names_in_any_script_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "顔" in charts.svg_text(figure("顔"))


@pytest.mark.slow
def test_threads_do_not_disturb_each_other_or_the_settings():
    before = dict(matplotlib.rcParams)
    expected = charts.svg_text(figure())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: charts.svg_text(figure()), range(4)))
    assert set(found) == {expected}
    assert dict(matplotlib.rcParams) == before
    buffer = io.BytesIO()
    figure().savefig(buffer, format="svg")
    assert b"<text" not in buffer.getvalue()  # the user's own figures keep their settings


def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never():
    code = (
        "import sys; from sg3.analysis import charts; assert 'matplotlib' not in sys.modules;"
        "charts.svg_text(charts.new_figure(1, 1)); assert 'matplotlib' in sys.modules;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
