"""Run the program `sg3` in this process, as most tests of commands do."""

from __future__ import annotations

import re
import shlex

from click.testing import CliRunner, Result

from sg3.cli.main import cli


def run(*arguments: object) -> Result:
    """Run `sg3` with these arguments."""
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def works(*arguments: object) -> str:
    """Return the output; fails unless the exit code is 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fails(expected: str, *arguments: object) -> str:
    """Return the output; fails unless it is one line with `expected` and the exit code is 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    assert expected in result.output, result.output
    return result.output


def examples(command: str) -> list[list[str]]:
    """Return the arguments of all examples in the help of `sg3 COMMAND`."""
    text = re.sub(r"\\\n\s*", "", works(command, "--help"))
    return [shlex.split(line)[1:] for line in re.findall(r"^ +(sg3 .*)$", text, re.MULTILINE)]


def run_examples(command: str) -> None:
    """Run all examples in the help of `sg3 COMMAND`, in order, in the current folder."""
    found = examples(command)
    assert any(arguments[0] == command for arguments in found)
    for arguments in found:
        works(*arguments)
