"""Launch the web page: `python app.py` is the same as `sg3 app`."""

import sys

from sg3.cli.main import cli

if __name__ == "__main__":
    cli(["app", *sys.argv[1:]], prog_name="sg3")
