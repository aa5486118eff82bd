"""The web page: one module per tab, on top of the iterators of the packages below.

`app_tabs.page` builds and serves it, `app_tabs.command` is the command `sg3 app`.
"""

import os

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation

# Gradio reads these when it is imported: no telemetry, no model hub.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
