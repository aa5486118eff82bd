"""The web page: one module per tab, on top of the iterators of the packages below.

`app_tabs.page` builds and serves it, `app_tabs.command` is the command `sg3 app`.
"""

import os

from sg3.telemetry import turn_off_telemetry

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation

# Read by Gradio when it is imported. The hub stays online: an encoder or a network that the user
# names may have to come from there, and with telemetry off the page itself asks nothing.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
turn_off_telemetry()
