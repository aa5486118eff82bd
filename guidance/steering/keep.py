"""What is to stay as it was at the start: how a picture looks, who it shows, what lies outside a
region."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from guidance.distance import load_distance
from guidance.encoders import load_encoder
from guidance.inversion.project import Goal
from sg3.errors import UserError
from sg3.media.images import as_rgb

Describe = Callable[[torch.Tensor], torch.Tensor]
#: Of a face aligned as in FFHQ, what face encoders were trained to read, as shares of its sides
#: (top, bottom, left, right), and the side they read (REFERENCE.md §8.2).
FACE = (35 / 256, 223 / 256, 32 / 256, 220 / 256)
FACE_PX = 112
SCRIPTS = (".pt", ".ts", ".torchscript")
#: Of the pixels outside a region.
OUTSIDE = 30.0


class KeepTerms:
    """Differences from the pictures of the start, each weighted, by name: "look", "identity",
    "outside"; those without a weight are left out."""

    def __init__(self, config, device: torch.device, mask: torch.Tensor | None = None):
        self.config, self.mask = config, mask
        self.distance = load_distance(config.look_distance, device) if config.look else None
        self.who = load_identity(config.identity_encoder, device) if config.identity else None
        self.outside = OUTSIDE if config.outside is None else config.outside

    @property
    def needs_start(self) -> bool:
        """Whether `begin` must come before `terms`."""
        return not (self.distance is None and self.who is None and self.mask is None)

    @torch.no_grad()
    def begin(self, images: torch.Tensor) -> None:
        """Take the pictures `[B, C, H, W]` that are to be kept."""
        self.source = images.detach()
        if self.distance is not None:
            self.goal = Goal(self.source, self.distance)
        if self.who is not None:
            self.person = self.who(as_rgb(self.source))

    def terms(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[B, C, H, W]` → weighted terms `[B]`; differentiable."""
        found = {}
        if self.distance is not None:
            found["look"] = self.config.look * self.goal.terms(images)["distance"]
        if self.who is not None:
            likeness = (self.who(as_rgb(images)) * self.person).sum(dim=1)
            found["identity"] = self.config.identity * (1 - likeness)
        if self.mask is not None:
            change = (images - self.source).square().mean(dim=1, keepdim=True) * (1 - self.mask)
            rest = (1 - self.mask).sum().clamp_min(1)
            found["outside"] = self.outside * change.sum(dim=(1, 2, 3)) / rest
        return found


def load_identity(spec: str, device: torch.device) -> Describe:
    """A face encoder: pictures `[N, 3, H, W]` in [−1, 1] → `[N, D]` of unit norm.

    `spec` is a TorchScript file (.pt, .ts, .torchscript) of an ArcFace-like network that reads the
    inner face at 112 pixels, or what `load_encoder` takes: an image–text model then only looks.
    TorchScript is code: take files from people you trust. Raises UserError otherwise.
    """
    if not (Path(spec).is_file() and Path(spec).suffix in SCRIPTS):
        try:
            return load_encoder(spec, device).encode_images
        except ValueError as error:
            raise UserError(
                f"identity: {spec} is neither a TorchScript file of a face encoder nor an "
                f"image-text model ({error})"
            ) from None
    try:
        network = torch.jit.load(spec, map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"identity: {spec} is no TorchScript file ({reason})") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def describe(images: torch.Tensor) -> torch.Tensor:
        return F.normalize(network(_face(images)).flatten(1).float(), dim=1)

    return describe


def _face(images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    top, bottom = (round(share * height) for share in FACE[:2])
    left, right = (round(share * width) for share in FACE[2:])
    inner = images[:, :, top:bottom, left:right]
    return F.interpolate(
        inner, size=(FACE_PX, FACE_PX), mode="bilinear", antialias=True, align_corners=False
    )
