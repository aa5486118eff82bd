"""`python -m sg3` is the `sg3` program."""

from sg3.cli.main import cli

if __name__ == "__main__":
    cli(prog_name="sg3")
