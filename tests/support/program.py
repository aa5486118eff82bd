"""The program `sg3`, called inside this process, as most tests of commands do."""

from __future__ import annotations

from click.testing import CliRunner, Result

from sg3.cli.main import cli


def run(*arguments: object) -> Result:
    """`sg3` with these arguments."""
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def works(*arguments: object) -> str:
    """What it prints; the test fails unless it exits with 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fails(expected: str, *arguments: object) -> str:
    """Its one line; the test fails unless it exits with 2 and one line that says `expected`."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    assert expected in result.output, result.output
    return result.output
