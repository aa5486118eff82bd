"""A text (or an image) pulls a latent."""

from sg3.installation import check_packages

check_packages("ops_cuda", "guidance")

from guidance.encoders import Encoder, load_encoder  # noqa: E402
from guidance.steering.steer import SteerConfig, Step, steer, steer_batch  # noqa: E402

__distribution__ = "sg3"  # other projects use this package name too: see sg3.installation
__all__ = ["Encoder", "SteerConfig", "Step", "load_encoder", "steer", "steer_batch"]
