"""Progress bars."""

from __future__ import annotations

import sys

from sg3.progress import ImageBar, with_bar


def test_a_bar_passes_all_steps_on(capsys):
    assert list(with_bar(iter(range(3)), 3, "steer", show=True)) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "steer" in shown and "3/3" in shown


def test_without_a_bar_the_iterator_is_the_same(capsys):
    steps = iter(range(3))
    assert with_bar(steps, 3, "steer", show=False) is steps
    assert capsys.readouterr().err == ""


def test_images_are_counted_in_stages_on_a_terminal_only(capsys, monkeypatch):
    def count() -> str:
        with ImageBar("fid") as bar:
            bar.update("real", 2, 4)
            bar.update("real", 4, 4)
            bar.update("generated", 1, 4)
        return capsys.readouterr().err

    assert count() == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = count()
    assert "fid, real" in shown and "4/4" in shown and "fid, generated" in shown
