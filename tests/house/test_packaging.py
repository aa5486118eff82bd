"""What the package declares is what the folders hold."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it on Python 3.10
    import tomli as tomllib

TOP_LEVEL = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs")


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def folders_with_code(root: Path) -> set[str]:
    """Dotted names of all folders below the top-level packages that hold Python files."""
    files = (path for name in TOP_LEVEL for path in (root / name).rglob("*.py"))
    return {".".join(path.relative_to(root).parent.parts) for path in files}


def test_every_folder_is_listed_and_every_listed_folder_exists(root, project):
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == folders_with_code(root)


def test_every_package_has_an_init_file(root, project):
    listed = project["tool"]["setuptools"]["packages"]
    missing = [
        name for name in listed if not (root / name.replace(".", "/") / "__init__.py").is_file()
    ]
    assert not missing


def test_every_package_imports(project):
    for name in project["tool"]["setuptools"]["packages"]:
        importlib.import_module(name)


def test_packages_are_found_from_any_folder(tmp_path):
    """A stale editable install finds folders, but not their __init__ files."""
    code = "import importlib.util as u, sys; print([u.find_spec(n).origin for n in sys.argv[1:]])"
    command = [sys.executable, "-c", code, *TOP_LEVEL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "None" not in done.stdout, "install again: pip install -e ."


def test_typing_markers_and_assets_are_package_data(root, project):
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    for name in TOP_LEVEL:
        assert (root / name / "py.typed").is_file()
    assets = [p for name in TOP_LEVEL for p in (root / name).rglob("*.safetensors")]
    lost = [p for p in assets if not any(p.match(pattern) for pattern in patterns)]
    assert not lost


@pytest.mark.parametrize(
    "name",
    [
        "sg3/assets/mini-faces.safetensors",
        "sg3/assets/mini-faces-r.safetensors",
        "sg3/assets/mini-faces-stylegan2.safetensors",
        "sg3/assets/fashion-32.safetensors",
        "guidance/assets/mini-a.safetensors",
        "guidance/assets/mini-b.safetensors",
        "guidance/assets/mini-c.safetensors",
        "guidance/assets/mini-d.safetensors",
        "recipes/minifaces/judge/assets/judge.safetensors",
    ],
)
def test_the_models_are_bundled(root, name):
    assert (root / name).stat().st_size > 100_000


def test_bundled_weights_stay_small(root):
    total = sum(
        p.stat().st_size for name in TOP_LEVEL for p in (root / name).rglob("*.safetensors")
    )
    assert total < 30e6, f"bundled weights are {total / 1e6:.1f} MB together"


def test_pins_meet_the_declared_bounds(root, project):
    from packaging.requirements import Requirement

    pins = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pins[canonical(requirement.name)] = next(iter(requirement.specifier)).version
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-"))]
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + extras["app"] + extras["dev"]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonical(requirement.name))
        assert pin, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pin), f"{requirement} excludes the pin {pin}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_torch_and_torchvision_fit_each_other():
    from packaging.requirements import Requirement
    from torchvision.ops import nms  # fails where the compiled operators do not match torch

    needed = [r for r in map(Requirement, metadata.requires("torchvision")) if r.name == "torch"]
    assert needed and needed[0].specifier.contains(metadata.version("torch"), prereleases=True)
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert nms(box, torch.ones(1), 0.5).tolist() == [0]


def test_the_console_script_points_at_a_callable(project):
    module, _, name = project["project"]["scripts"]["sg3"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_makefile_has_the_promised_targets_and_ci_calls_make_test(root):
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for target in ("steer", "test", "lint", "bench", "kernels", "app"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    ci = root / ".ci" / "run"
    assert "make test" in ci.read_text(encoding="utf-8")
    assert ci.stat().st_mode & 0o111


def test_benchmarks_refuse_an_unknown_name(root):
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark called nonsense" in done.stdout
