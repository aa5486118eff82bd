"""Terms that preserve the start image: its appearance, identity, and pixels outside a region."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from guidance.distance import Goal, load_distance
from guidance.encoders import load_encoder
from guidance.steering.config import SteerConfig
from sg3.errors import UserError
from sg3.media.images import as_rgb

Describe = Callable[[torch.Tensor], torch.Tensor]
#: The part of a face aligned as in FFHQ that face encoders were trained on, in fractions of the
#: image (top, bottom, left, right), and their input size (REFERENCE.md §8.2).
FACE = (35 / 256, 223 / 256, 32 / 256, 220 / 256)
FACE_PX = 112
TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript")
#: Default weight of the pixels outside the region.
OUTSIDE = 30.0


class KeepTerms:
    """Weighted differences from the start images: "perceptual", "identity" and "outside".

    Terms with a weight of 0 are left out.

    Args:
        config: settings of the run.
        device: where the images are.
        mask: the region that may change, `[1, 1, H, W]`.
    """

    def __init__(self, config: SteerConfig, device: torch.device, mask: torch.Tensor | None = None):
        self.config, self.mask = config, mask
        name = config.perceptual_distance
        self.distance = load_distance(name, device) if config.perceptual else None
        self.identity: Describe | None = None
        if config.identity and config.identity_encoder:
            self.identity = load_identity(config.identity_encoder, device)
        self.outside = OUTSIDE if config.outside is None else config.outside

    @property
    def needs_start(self) -> bool:
        """Whether `begin` must be called before `terms`."""
        return not (self.distance is None and self.identity is None and self.mask is None)

    @torch.no_grad()
    def begin(self, images: torch.Tensor) -> None:
        """Set the start images `[B, C, H, W]`."""
        self.source = images.detach()
        if self.distance is not None:
            self.goal = Goal(self.source, self.distance)
        if self.identity is not None:
            self.person = self.identity(as_rgb(self.source))

    def terms(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms `[B]` of images `[B, C, H, W]`, by name; differentiable."""
        found = {}
        if self.distance is not None:
            found["perceptual"] = self.config.perceptual * self.goal.terms(images)["distance"]
        if self.identity is not None:
            similarity = (self.identity(as_rgb(images)) * self.person).sum(dim=1)
            found["identity"] = self.config.identity * (1 - similarity)
        if self.mask is not None:
            change = (images - self.source).square().mean(dim=1, keepdim=True) * (1 - self.mask)
            # A region that covers everything leaves no pixel outside.
            rest = (1 - self.mask).sum().clamp_min(1)
            found["outside"] = self.outside * change.sum(dim=(1, 2, 3)) / rest
        return found


def load_identity(spec: str, device: torch.device) -> Describe:
    """Load a face encoder: a function from images `[N, 3, H, W]` in [−1, 1] to unit `[N, D]`.

    Args:
        spec: TorchScript file (.pt, .ts, .torchscript) of an ArcFace-like network with an input of
            112 pixels, or anything that `load_encoder` takes. An image-text model compares
            appearance rather than identity. TorchScript is code: only load files you trust.
        device: where to run it.

    Raises ValueError for anything else.
    """
    if not (Path(spec).is_file() and Path(spec).suffix in TORCHSCRIPT_SUFFIXES):
        try:
            return load_encoder(spec, device).encode_images
        except ValueError as error:
            raise UserError(
                f"identity_encoder: {spec} is neither a TorchScript file of a face encoder nor an "
                f"image-text model ({error})"
            ) from None
    try:
        network = torch.jit.load(spec, map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"identity_encoder: {spec} is not a TorchScript file ({reason})") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def describe(images: torch.Tensor) -> torch.Tensor:
        return F.normalize(network(_face(images)).flatten(1).float(), dim=1)

    return describe


def _face(images: torch.Tensor) -> torch.Tensor:
    """The inner face `[N, 3, 112, 112]` of aligned faces."""
    height, width = images.shape[2:]
    top, bottom = (round(edge * height) for edge in FACE[:2])
    left, right = (round(edge * width) for edge in FACE[2:])
    inner = images[:, :, top:bottom, left:right]
    return F.interpolate(
        inner, size=(FACE_PX, FACE_PX), mode="bilinear", antialias=True, align_corners=False
    )
