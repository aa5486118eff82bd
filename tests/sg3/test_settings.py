"""Configuration fields: ranges, documentation, options, and errors in the words of the program."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass

import click
import numpy as np
import pytest
from click.testing import CliRunner

from sg3.cli.main import LazyGroup, with_option_names
from sg3.cli.options import DocumentedOption, ParsedType, config_option, option
from sg3.cli.parsers import parse_seeds
from sg3.errors import UserError
from sg3.settings import (
    Setting,
    about,
    check_settings,
    documented,
    replace_settings,
    setting,
    type_name,
)


@documented
@dataclass(frozen=True)
class Config:
    """Settings of a run.

    More about it.
    """

    batch: int = setting(32, "Images per step.", min=1)
    lr: float = setting(0.002, "Learning rate.", above=0, below=1)
    fraction: float = setting(0.5, "A fraction.", min=0, max=1)
    kind: str = setting("a", "Kind.", choices=("a", "b"))
    level: int = setting(1, "Level.", choices=(1, 2))
    cutoff: int | None = setting(None, "Number of layers.", min=0, unset="all")
    mirror: bool = setting(False, "Mirror images.")
    free: float = setting(1.0, "Any number.")
    sizes: tuple[int, ...] = setting((1, 2), "Sizes.")
    names: list = setting(factory=list, doc="Names.")

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch: got 0, expected at least 1"),
        ({"batch": 2.5}, "batch: got 2.5, expected a whole number"),
        ({"batch": "8"}, "batch: got '8', expected a number"),
        ({"batch": None}, "batch: got None, expected a number"),
        ({"batch": math.inf}, "batch: got inf, expected a finite number"),
        ({"lr": 0}, "lr: got 0, expected above 0 and below 1"),
        ({"lr": 1}, "lr: got 1, expected above 0 and below 1"),
        ({"lr": math.nan}, "lr: got nan, expected a finite number"),
        ({"fraction": 1.01}, "fraction: got 1.01, expected 0 to 1"),
        ({"kind": "c"}, "kind: got 'c', expected a or b"),
        ({"kind": None}, "kind: got None, expected a or b"),
        ({"cutoff": -1}, "cutoff: got -1, expected at least 0"),
        ({"free": math.nan}, "free: got nan, expected a finite number"),
        ({"free": "fast"}, "free: got 'fast', expected a number"),
    ],
)
def test_values_outside_their_range_are_refused(changes, message):
    with pytest.raises(UserError) as found:
        Config(**changes)
    assert str(found.value) == message


def test_values_within_their_range_pass():
    Config(batch=1, lr=0.5, fraction=0, kind="b", cutoff=0, free=-1e8)
    Config(fraction=1, cutoff=None, batch=2**16)
    Config(batch=np.int64(4), lr=np.float32(0.5), fraction=np.float64(0.5))
    Config(batch=8.0)  # a whole number


def test_declared_unions():
    @dataclass
    class Unions:
        size: int | str | None = setting(None, "Size.")
        limit: float | None = setting(0.5, "Limit.", min=0)

        def __post_init__(self):
            check_settings(self)

    Unions(size="auto", limit=None)
    with pytest.raises(UserError, match="limit: got 'x', expected a number"):
        Unions(limit="x")
    assert [type_name(field) for field in dataclasses.fields(Unions)] == ["int | str", "float"]


def test_expected_values_in_words():
    assert Setting(min=1).expected == "at least 1"
    assert Setting(max=2**32 - 1, min=0).expected == "0 to 4294967295"
    assert Setting(above=0, max=1).expected == "above 0 and at most 1"
    assert Setting(choices=("x", "y", "z")).expected == "x, y or z"
    assert Setting().expected == "" and not Setting().bounded and Setting(below=2).bounded


def test_help_lists_every_field():
    text = Config.__doc__
    assert text.startswith("Settings of a run.\n\nMore about it.\n\nAttributes:\n")
    assert "    batch: Images per step. (at least 1; default 32)\n" in text
    assert "    cutoff: Number of layers. (at least 0; None: all)\n" in text
    assert "    kind: Kind. (a or b; default 'a')\n" in text
    assert "    names: Names.\n" in text
    assert text.count("\n    ") == len(dataclasses.fields(Config))
    assert max(map(len, text.splitlines())) <= 96


def test_long_documentation_is_wrapped():
    @documented
    @dataclass
    class Long:
        """Title."""

        x: int = setting(1, "word " * 50)

    lines = Long.__doc__.splitlines()
    assert max(map(len, lines)) <= 96 and lines[4].startswith("        word")


def test_names_of_types():
    types = {field.name: type_name(field) for field in dataclasses.fields(Config)}
    assert types["batch"] == "int" and types["cutoff"] == "int" and types["kind"] == "str"
    made = dataclasses.make_dataclass("Made", [("a", int), ("b", float | None)])
    assert [type_name(field) for field in dataclasses.fields(made)] == ["int", "float"]
    assert about(dataclasses.fields(made)[0]) == Setting()


def test_settings_are_replaced_by_name():
    config = replace_settings(Config(), {"batch": 8, "kind": "b"})
    assert (config.batch, config.kind, config.lr) == (8, "b", 0.002)
    with pytest.raises(
        UserError, match=r"^bacth: unknown setting of Config; did you mean 'batch'\?$"
    ):
        replace_settings(Config(), {"bacth": 8})
    with pytest.raises(UserError, match=r"^zzz: unknown setting of Config; .* batch, lr, .*names$"):
        replace_settings(Config(), {"zzz": 8})
    with pytest.raises(UserError, match="batch: got 0"):
        replace_settings(Config(), {"batch": 0})


# Options


@click.command()
@config_option(Config, "batch")
@config_option(Config, "lr", "--learning-rate", param="rate")
@config_option(Config, "kind", default=None, unset="the best")
@config_option(Config, "level")
@config_option(Config, "cutoff")
@config_option(Config, "mirror")
@config_option(Config, "free")
@option("--count", type=click.IntRange(1, 9), default=3, help="Count.")
@option("--share", type=click.FloatRange(0, 1, min_open=True), help="Share.", unset="all of it")
@option("--file", required=True, help="File.")
@option("--tag", multiple=True, help="Tags.")
def command(**options):
    """A command."""
    click.echo(repr(options))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, ["--file", "f", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_options_take_default_range_and_help_from_their_field():
    text = " ".join(run("--help").split())
    for expected in (
        "--batch INTEGER Images per step. [default: 32; at least 1, at most 65 536]",
        "--learning-rate FLOAT Learning rate. [default: 0.002; above 0 and below 1]",
        "--kind [a|b] Kind. [default: the best]",
        "--level [1|2] Level. [default: 1]",
        "--cutoff INTEGER Number of layers. [default: all; at least 0]",
        "--mirror / --no-mirror Mirror images. [default: no-mirror]",
        "Count. [default: 3; 1 to 9]",
        "Share. [default: all of it; above 0 and at most 1]",
        "--file TEXT File. [required]",
    ):
        assert expected in text


def test_values_have_the_type_of_the_field():
    assert "'batch': 32, 'rate': 0.002, 'kind': None, 'level': 1, 'cutoff': None" in run()
    shown = run("--batch", "1", "--level", "2", "--cutoff", "4", "--mirror", "--kind", "b")
    assert "'batch': 1" in shown
    assert "'level': 2, 'cutoff': 4, 'mirror': True" in shown and "'kind': 'b'" in shown


def test_an_option_for_an_unknown_field_is_refused():
    with pytest.raises(KeyError, match="bacth"):
        config_option(Config, "bacth")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_finite_numbers(value):
    result = CliRunner().invoke(command, ["--file", "f", "--free", value])
    assert result.exit_code == 2 and "expected a finite number" in result.output


def test_a_default_hides_what_leaving_it_out_would_do():
    with_default = DocumentedOption(["--x"], default=3, unset="nothing")
    text = with_default.get_help_record(click.Context(click.Command("c")))[1]
    assert text == "[default: 3]"


def test_what_leaving_it_out_does_replaces_an_empty_default():
    empty = DocumentedOption(["--x"], default="", unset="DIR/x.mp4")
    assert empty.get_help_record(click.Context(click.Command("c")))[1] == "[default: DIR/x.mp4]"


def test_numbers_and_switches_print_uniformly():
    context = click.Context(click.Command("c"))
    number = DocumentedOption(["--n"], type=click.IntRange(1), default=3)
    assert number.get_help_record(context) == ("--n INTEGER", "[default: 3; at least 1]")
    switch = DocumentedOption(["--s"], type=bool, is_flag=False, flag_value=True, default=False)
    assert switch.get_help_record(context)[1] == "[default: off]"


# Errors


@pytest.mark.parametrize("name", ["seeds", "SEEDS"])
def test_a_parser_does_not_repeat_the_name_of_its_option(name):
    kind = ParsedType(name, parse_seeds)
    seeds = click.Command("c", params=[DocumentedOption(["--seeds"], type=kind)], callback=print)
    result = CliRunner().invoke(seeds, ["--seeds", "5-1"])
    expected = "--seeds: got '5-1', expected the smaller seed first, such as 1-5"
    assert result.exit_code == 2 and f"Error: {expected}\n" in result.output


@pytest.mark.parametrize(
    ("name", "hint"), [("bacth", "did you mean 'batch'?"), ("xyz", "expected one of batch, lr, fr")]
)
def test_an_unknown_keyword_names_the_nearest_setting(name, hint):
    with pytest.raises(TypeError, match=re.escape(f"Config: unknown setting {name!r}; {hint}")):
        Config(**{name: 3})


def test_the_constructor_stays_usual():
    config = Config(8, lr=0.1)
    assert list(inspect.signature(Config).parameters) == [
        f.name for f in dataclasses.fields(Config)
    ]
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert dataclasses.replace(config, batch=4) == Config(4, lr=0.1)
    with pytest.raises(TypeError, match="batch"):
        Config(8, batch=8)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch: got 0, expected at least 1", "--batch: got 0, expected at least 1"),
        ("lr: got 0, expected above 0", "--learning-rate: got 0, expected above 0"),
        ("batch, lr: got both", "--batch, --learning-rate: got both"),
        ("batch, unknown: got both", "batch, unknown: got both"),
        (
            "cutoff: got 3, expected less than `batch`",
            "--cutoff: got 3, expected less than --batch",
        ),
        ("unknown: got 3; see `unknown`", "unknown: got 3; see `unknown`"),
        ("out/batch: no such file", "out/batch: no such file"),
        ("a batch: got 0", "a batch: got 0"),
        ("run `sg3 models` first", "run `sg3 models` first"),
    ],
)
def test_argument_names_become_options(message, expected):
    assert with_option_names(message, command) == expected


def test_a_parameter_comes_before_a_field_of_the_same_name():
    @click.command()
    @config_option(Config, "batch", "--tune-batch", param="tune_batch")
    @option("--batch", default=1, help="Batch.")
    def two(**options):
        """Two options for fields with one name."""

    assert with_option_names("batch: got 0", two) == "--batch: got 0"
    assert with_option_names("tune_batch: got 0", two) == "--tune-batch: got 0"
    assert with_option_names("state `as_`", two) == "state sg3 convert --as"


def test_options_of_subcommands_count():
    group = click.Group(commands={"sub": command})
    assert with_option_names("batch: got 0", group) == "--batch: got 0"
    assert with_option_names("batch: got 0", None) == "batch: got 0"


def test_the_program_translates_errors_of_the_library(monkeypatch):
    @click.command()
    @config_option(Config, "batch")
    def probe(batch):
        Config(batch=batch)

    module = sys.modules[__name__]
    monkeypatch.setattr(module, "probe_command", probe, raising=False)
    monkeypatch.setitem(
        sys.modules["sg3.cli.main"].COMMANDS, "probe", (f"{__name__}:probe_command", "A probe.")
    )
    result = CliRunner().invoke(LazyGroup(name="sg3"), ["probe", "--batch", "0"])
    assert (result.exit_code, result.output) == (
        2,
        "Error: --batch: got 0, expected at least 1 (see 'sg3 probe --help')\n",
    )


def test_configurations_do_not_import_torch():
    code = (
        "import sys, sg3.settings, sg3.video_config, sg3.analysis.layer_display, sg3.cli.options;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
