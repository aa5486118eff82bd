"""Packages of other projects with the same names are recognized before anything else fails."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
import repository

from sg3 import installation

COMMANDS = {
    "the program": ["-c", "from sg3.cli.main import main; main()"],
    "python -m sg3": ["-m", "sg3", "models"],
    "import nada": ["-c", "import nada"],
}  # fmt: skip


@pytest.fixture
def packages(tmp_path):
    """A folder with this toolkit's packages, linked, and room for a foreign one."""
    for name in installation.PACKAGES:
        (tmp_path / name).symlink_to(repository.ROOT / name)
    return tmp_path


def run(folder, arguments) -> subprocess.CompletedProcess:
    environment = {"PATH": "", "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def replace_package(folder, name: str, files: dict[str, str]) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    for file, text in files.items():
        (folder / name / file).write_text(text)


@pytest.mark.parametrize("how", COMMANDS)
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"__init__.py": "def models(): ..."}, "belongs to another project"),
        ({"_left_over.py": ""}, "has lost its __init__.py"),
    ],
    ids=["overwritten", "uninstalled"],
)
def test_a_foreign_guidance_is_named_in_one_line(packages, how, files, expected):
    replace_package(packages, "guidance", files)
    done = run(packages, COMMANDS[how])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert "'guidance'" in last and expected in last and "environment of its own" in last
    if how != "import nada":
        assert len(done.stderr.strip().splitlines()) == 1 and done.returncode == 2


def test_the_own_packages_pass(packages):
    done = run(packages, ["-m", "sg3", "--version"])
    assert done.returncode == 0, done.stderr
    assert all(installation.problem(name) is None for name in installation.PACKAGES)


def test_a_missing_package_is_named(packages):
    (packages / "nada").unlink()
    done = run(packages, ["-S", "-c", "import sg3.installation as i; print(i.problem('nada'))"])
    assert done.stdout.strip() == "the package 'nada' is missing"


def test_distributions_with_the_same_package_are_found(monkeypatch):
    owners = {"guidance": ["sg3", "guidance"], "nada": ["sg3"], "sg3": ["sg3"], "other": ["other"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    assert installation.shared_names() == {"guidance": ["guidance"]}
