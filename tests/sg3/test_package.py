"""`import sg3`: what it offers, and that it is fast."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap

import pytest

import sg3


def test_public_names_are_listed_and_exist():
    assert {"Networks", "generate_images", "load", "save", "__version__"} == set(sg3.__all__)
    assert set(sg3.__all__) <= set(dir(sg3))
    for name in sg3.__all__:
        assert getattr(sg3, name) is not None
    assert callable(sg3.load) and callable(sg3.save) and callable(sg3.generate_images)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        sg3.laod  # noqa: B018


def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"\n\n((?: {4}.*\n|\n)+)", inspect.getdoc(sg3) + "\n")[1]
    assert example.count("\n") <= 6
    exec(textwrap.dedent(example), {})
    assert capsys.readouterr().out.splitlines() == [f"seed000{i} (64, 64, 3)" for i in range(3)]
    assert not list(tmp_path.iterdir())


def test_importing_does_not_import_torch():
    code = "import sys, sg3; dir(sg3); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_star_import_brings_the_public_names():
    names: dict = {}
    exec("from sg3 import *", names)
    assert set(sg3.__all__) <= set(names)
