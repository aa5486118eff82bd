"""Image models of timm as feature networks: DINOv2, and any other by name.

FD with DINOv2 ViT-L/14 follows Stein et al., "Exposing flaws of generative model evaluation
metrics" (arXiv 2306.04675): bicubic resize to 224 pixels, normalized class token.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from sg3.checkpoints.hub import ask_hub_once, root_cause
from sg3.errors import UserError
from sg3.media.images import as_rgb

DINOV2 = "vit_large_patch14_dinov2.lvd142m"
DINOV2_PX = 224
OFFSET = 0.1  # patches


class TimmFeatures:
    """Features of a timm model before its classifier.

    Args:
        model: created with `num_classes=0`.
        name: see `FeatureNetwork.name`.
        size_px: side length that images are resized to. None: the model's own.
    """

    def __init__(self, model: Any, name: str, size_px: int | None = None):
        self._model = model.eval().requires_grad_(False)
        config = model.pretrained_cfg
        self.name, self.dim = name, model.num_features
        self._size: int = size_px or config["input_size"][-1]
        self._device = next(model.parameters()).device
        self._mean, self._std = (
            torch.tensor(config[key], device=self._device).reshape(1, 3, 1, 1)
            for key in ("mean", "std")
        )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` with C = 1, 3 or 4 to features float32 `[N, dim]`."""
        pixels = as_rgb(images.to(self._device)).float()
        if pixels.shape[2:] != (self._size, self._size):
            size = [self._size, self._size]
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).round()
        # Bicubic interpolation overshoots at edges.
        pixels = pixels.clamp(0, 255) / 255
        return self._model((pixels - self._mean) / self._std).float()


def load_dinov2(device: torch.device, path: str | None = None) -> TimmFeatures:
    """Load DINOv2 ViT-L/14 with the published weights, or those in `path`."""
    model, _ = _create(DINOV2 if path is None else f"{DINOV2}/{path}", "dinov2")
    set_dinov2_size(model, DINOV2_PX)
    name = "dinov2" if path is None else f"dinov2:{Path(path).stem}"
    return TimmFeatures(model.to(device), name, DINOV2_PX)


def set_dinov2_size(model: Any, size_px: int) -> None:
    """Let a DINOv2 of timm take images of side `size_px`, as the release of DINOv2 does.

    It resamples the position embeddings without antialiasing, and at the scale of 0.1 more patches
    than there are (the argument `interpolate_offset`), where timm uses antialiasing and the exact
    scale: features differ by a few percent.
    """
    positions = model.pos_embed.detach()
    prefix, grid = positions[:, : model.num_prefix_tokens], positions[:, model.num_prefix_tokens :]
    before = round(grid.shape[1] ** 0.5)
    model.set_input_size(img_size=(size_px, size_px))
    after = model.patch_embed.grid_size[0]
    if after == before:
        return
    grid = rearrange(grid, "1 (h w) c -> 1 c h w", h=before)
    scale = (after + OFFSET) / before
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    whole = torch.cat([prefix, rearrange(grid, "1 c h w -> 1 (h w) c")], dim=1)
    model.pos_embed.data.copy_(whole)


def load_timm(device: torch.device, spec: str) -> TimmFeatures:
    """Load an image model of timm.

    Args:
        device: where to load it.
        spec: `MODEL[.TAG]` for published weights, or `MODEL[.TAG]/FILE`. Files are safetensors or
            plain tensors of torch.save; no code in them is executed.

    Raises UserError for an unknown model, a failed download or a file that does not fit.
    """
    model, label = _create(spec)
    return TimmFeatures(model.to(device), label)


def _create(spec: str, name: str = "") -> tuple[Any, str]:
    """Return the model of `load_timm` and its label; `name` is what error messages call it."""
    import timm

    model_name, _, path = spec.partition("/")
    if not timm.is_model(model_name.split(".")[0]):
        raise UserError(
            f"features: timm knows no model {model_name!r}, expected one of timm.list_models()"
        )
    if path:
        model = timm.create_model(model_name, num_classes=0)
        _fill(model, Path(path).expanduser(), model_name)
        return model, f"timm:{model_name}/{Path(path).stem}"
    try:
        with ask_hub_once():
            model = timm.create_model(model_name, pretrained=True, num_classes=0)
    except Exception as error:
        where = f"{name}:FILE" if name else f"timm:{model_name}/FILE"
        raise UserError(
            f"features: cannot download {model_name} ({root_cause(error)}); download its "
            f"weights elsewhere and use {where}, or use mini, which needs no download"
        ) from None
    return model, f"timm:{model_name}"


def _fill(model: torch.nn.Module, path: Path, name: str) -> None:
    """Load the weights in `path`, except those of a classifier."""
    from timm.models import load_state_dict
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if not path.is_file():
        raise UserError(f"features: {path}: no such file")
    try:
        state = load_state_dict(str(path), weights_only=True)
        if isinstance(model, VisionTransformer):  # resizes position embeddings
            state = checkpoint_filter_fn(state, model)
        state = {key: value for key, value in state.items() if key in model.state_dict()}
        model.load_state_dict(state)
    except (RuntimeError, OSError, EOFError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"features: {path} does not fit {name} ({root_cause(error)})") from None
    except (pickle.UnpicklingError, ImportError):
        raise UserError(f"features: {path}: not a file of plain tensors") from None
