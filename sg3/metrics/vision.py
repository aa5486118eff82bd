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

from sg3.checkpoints.hub import ask_hub_once, root_cause
from sg3.errors import UserError
from sg3.media.images import as_rgb

DINOV2 = "vit_large_patch14_dinov2.lvd142m"
DINOV2_PX = 224


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
    spec = DINOV2 if path is None else f"{DINOV2}/{path}"
    name = "dinov2" if path is None else f"dinov2:{Path(path).stem}"
    return load_timm(device, spec, name, DINOV2_PX)


def load_timm(
    device: torch.device, spec: str, name: str | None = None, size_px: int | None = None
) -> TimmFeatures:
    """Load an image model of timm.

    Args:
        device: where to load it.
        spec: `MODEL[.TAG]` for published weights, or `MODEL[.TAG]/FILE`. Files are safetensors or
            plain tensors of torch.save; no code in them is executed.
        name: name of the feature network. None: from `spec`.
        size_px: side length that images are resized to. None: the model's own.

    Raises UserError for an unknown model, a failed download or a file that does not fit.
    """
    import timm

    model_name, _, path = spec.partition("/")
    if not timm.is_model(model_name.split(".")[0]):
        raise UserError(
            f"features: timm knows no model {model_name!r}, expected one of timm.list_models()"
        )
    size: dict[str, Any] = {"img_size": size_px} if size_px else {}
    where = f"{name}:FILE" if name else f"timm:{model_name}/FILE"
    if path:
        model = timm.create_model(model_name, num_classes=0, **size)
        _fill(model, Path(path).expanduser(), model_name)
    else:
        try:
            with ask_hub_once():
                model = timm.create_model(model_name, pretrained=True, num_classes=0, **size)
        except Exception as error:
            raise UserError(
                f"features: cannot download {model_name} ({root_cause(error)}); download its "
                f"weights elsewhere and use {where}, or use mini, which needs no download"
            ) from None
    label = name or f"timm:{model_name}" + (f"/{Path(path).stem}" if path else "")
    return TimmFeatures(model.to(device), label, size_px)


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
