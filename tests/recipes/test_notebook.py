"""The notebook runs from top to bottom, in seconds."""

import ast
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "notebooks"
#: CPU time, once its loops are compiled.
MAX_CPU_S = 15


def run_cell(source: str, names: dict):
    """Run a cell as Jupyter does; returns the value of its last line, which is displayed."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def run_all(cells: list[dict]) -> tuple[list, dict, float]:
    """Run all cells; returns what they show, their variables and the CPU time in seconds."""
    names: dict = {}
    start = time.process_time()
    shown = [run_cell("".join(cell["source"]), names) for cell in cells]
    return shown, names, time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_cells_in_order(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and book["metadata"]["kernelspec"]["language"] == "python"
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    shown, names, seconds = run_all(cells)
    if seconds > MAX_CPU_S:  # it has compiled its loops, which happens once
        shown, names, seconds = run_all(cells)
    assert seconds < MAX_CPU_S
    pictures = [value for value in shown if hasattr(value, "_repr_png_")]
    assert len(pictures) >= 4 and all(value._repr_png_() for value in pictures)
    grids = [value for value in pictures if isinstance(value, Image.Image)]
    assert all(len(np.unique(grid)) > 50 for grid in grids)
    assert names["history"][-1].loss < names["history"][0].loss
