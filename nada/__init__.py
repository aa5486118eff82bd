"""A text pulls the weights of a generator into another domain (StyleGAN-NADA)."""

from sg3.installation import check_packages

check_packages("ops_cuda", "guidance", "nada")

from nada.adapt import Adaptation, Step, adapt  # noqa: E402
from nada.config import AdaptConfig  # noqa: E402
from nada.objective import ViewConfig, Weights  # noqa: E402
from nada.stop_rule import StopRule  # noqa: E402

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation
__all__ = ["AdaptConfig", "Adaptation", "Step", "StopRule", "ViewConfig", "Weights", "adapt"]
