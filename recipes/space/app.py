"""The web page as a Space. Variables of the Space: SG3_NETWORK, SG3_CLIP, SG3_APP_AUTH.

The page is public, so that visitors cannot read paths or choose other networks.
"""

import os

from sg3.cli.main import cli

if __name__ == "__main__":
    cli(
        [
            "app",
            *("--network", os.environ.get("SG3_NETWORK", "mini-faces")),
            *("--clip", os.environ.get("SG3_CLIP", "mini")),
            *("--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")),
            *("--outdir", os.environ.get("SG3_OUTDIR", "/tmp/sg3")),
        ],
        prog_name="sg3",
    )
