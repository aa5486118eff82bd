"""`import guidance`: names, arguments, steps in notebooks, help, examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pydoc
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from steer_doubles import GOLDEN, QUICK, Colour

import guidance
import sg3
from guidance.steering.run import SteeringRun
from sg3.cli.main import cli
from sg3.media import ImageStep, ImageTensor

COMMANDS = ("steer", "edit", "project")


@pytest.fixture(scope="module")
def nets():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl")


@pytest.mark.parametrize("package", ["guidance", "guidance.directions", "guidance.inversion"])
def test_all_names_are_found_and_listed(package):
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__) > 10
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_package_and_its_configurations_do_not_import_torch():
    code = "import sys, guidance; guidance.SteerConfig(); guidance.ProjectConfig()\n"
    code += "guidance.TuneConfig(); guidance.Augment(); print('torch' in sys.modules)"
    assert run_python(code).split() == ["False"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_torch(command):
    code = "import sys\nfrom sg3.cli.main import cli\n"
    code += f"cli(['{command}', '--help'], standalone_mode=False)\nprint('torch' in sys.modules)"
    assert run_python(code).split()[-1] == "False"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text_and_a_default(command):
    import click

    context = click.Context(cli)
    found = cli.get_command(context, command)
    text = CliRunner().invoke(cli, [command, "--help"]).output
    for param in found.params:
        if not isinstance(param, click.Option):
            continue
        assert param.help, param.name
        required = param.required or param.is_flag or param.multiple
        shown = param.get_help_record(click.Context(found))[1]
        assert required or "[default:" in shown, f"{param.name}: {shown}"
        assert param.opts[0] in text


@pytest.mark.slow
def test_networks_are_as_good_as_a_generator(nets):
    settings = QUICK | {"steps": 1, "start": "seed"}
    runs = [list(guidance.steer(each, "red", Colour(), **settings)) for each in (nets, nets.G_ema)]
    assert torch.equal(runs[0][-1].ws, runs[1][-1].ws)
    target = runs[0][0].image
    found = [list(guidance.project(each, target, "scales", steps=1, candidates=2))[-1].ws
             for each in (nets, nets.G_ema)]  # fmt: skip
    assert torch.equal(*found)
    ws = found[0]
    tuned = [list(guidance.tune(each, ws, target, "scales", steps=1, stop=0.0))[-1].distance
             for each in (nets, nets.G_ema)]  # fmt: skip
    assert tuned[0] == tuned[1]
    assert isinstance(guidance.steer_batch(nets, ["red"], Colour(), **settings), SteeringRun)
    more = {k: v for k, v in settings.items() if k != "steps"}
    dissolved = guidance.dissolve(nets, ["red", "blue"], Colour(), steps_each=1, **more)
    assert len(list(dissolved)) == 3
    for empty in (sg3.Networks(meta={"name": "nothing"}), torch.nn.Linear(1, 1)):
        with pytest.raises(ValueError, match="network: "):
            guidance.steer(empty, "red", Colour())


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (guidance.steer, ("red", "mini")),
        (guidance.steer_batch, (["red"], "mini")),
        (guidance.dissolve, (["red", "blue"], "mini")),
        (guidance.project, (torch.zeros(1, 3, 32, 32), "scales")),
        (guidance.tune, (torch.zeros(1, 1, 1), torch.zeros(1, 3, 32, 32), "scales")),
    ],
)
def test_a_misspelt_setting_names_the_nearest(nets, function, arguments):
    with pytest.raises(ValueError, match=r"stepz: unknown setting.*did you mean 'steps'"):
        function(nets, *arguments, stepz=3)


def test_iterators_show_a_bar_on_request(nets, capsys):
    settings = QUICK | {"steps": 2, "start": "seed"}
    steps = list(guidance.steer(nets, "red", Colour(), progress=True, **settings))
    assert len(steps) == 3 and "steer: 100%" in capsys.readouterr().err
    list(guidance.steer(nets, "red", Colour(), **settings))
    assert capsys.readouterr().err == ""
    target = steps[0].image
    *_, found = guidance.project(nets, target, "scales", steps=1, candidates=2, progress=True)
    list(guidance.tune(nets, found.ws, target, "scales", steps=1, stop=0.0, progress=True))
    direction = guidance.pca_direction(nets, 0)
    list(guidance.sweep(nets, found.ws, [(direction, 0, 1)], count=2, progress=True))
    shown = capsys.readouterr().err
    assert all(f"{name}: 100%" in shown for name in ("project", "tune", "sweep"))


def test_steps_display_in_notebooks(nets):
    settings = QUICK | {"steps": 1, "start": "seed"}
    *_, step = guidance.steer(nets, "red", Colour(), **settings)
    *_, projected = guidance.project(nets, step.image, "scales", steps=1, candidates=2)
    *_, tuned = guidance.tune(nets, projected.ws, step.image, "scales", steps=1)
    edits = [(guidance.pca_direction(nets, 0), 0.0, 1.0)]
    *_, edited = guidance.sweep(nets, projected.ws, edits, count=1)
    for each in (step, projected, tuned, edited):
        assert isinstance(each, ImageStep) and isinstance(each.image, ImageTensor)
        assert each._repr_png_().startswith(b"\x89PNG") and each.pil().size == (32, 32)
        assert each.image.shape == (1, 3, 32, 32)
        assert type(each.image + 0) is torch.Tensor


@pytest.mark.parametrize("name", ["SteerConfig", "ProjectConfig", "TuneConfig", "Augment"])
def test_help_of_a_configuration_explains_every_field(name):
    import dataclasses

    config = getattr(guidance, name)
    text = pydoc.render_doc(config, renderer=pydoc.plaintext)
    for field in dataclasses.fields(config):
        assert f"{field.name}: {field.metadata['setting'].doc[:20]}" in text


EXAMPLES = [
    name for name in guidance.__all__ if ">>>" in (inspect.getdoc(getattr(guidance, name)) or "")
]


def test_the_main_functions_have_examples():
    expected = {"dissolve", "load_encoder", "load_region", "pca_direction", "project", "steer"}
    assert expected | {"steer_batch", "sweep", "text_direction", "tune"} <= set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = getattr(guidance, name)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert tests and not any(doctest.DocTestRunner().run(test).failed for test in tests)
    assert not list(tmp_path.iterdir())
