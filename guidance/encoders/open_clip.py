"""open_clip models with the interface `Encoder`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from guidance.encoders.base import prepare_images
from guidance.encoders.text import clean_text
from sg3.checkpoints.hub import ask_hub_once, root_cause
from sg3.checkpoints.torchscript import is_torchscript, script_state

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
#: Buffers of OpenAI's programs beside the weights.
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")


class OpenClipEncoder:
    """A frozen open_clip model, whose images are prepared as its preprocessing does."""

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], torch.Tensor], name: str):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name = tokenizer, name
        settings = model.visual.preprocess_cfg
        size = settings["size"]
        self.input_size_px = size if isinstance(size, int) else max(size)
        self.mean, self.std = tuple(settings["mean"]), tuple(settings["std"])
        self.resize_mode = settings.get("resize_mode") or "shortest"
        is_bilinear = settings.get("interpolation") == "bilinear"
        self.interpolation = "bilinear" if is_bilinear else "bicubic"
        self.device = next(model.parameters()).device
        self.embed_dim = self.encode_texts(["a face"]).shape[1]

    def encode_images(self, img: torch.Tensor) -> torch.Tensor:
        """Embed `img` `[N, 3, H, W]` in [−1, 1]: `[N, embed_dim]` of unit norm."""
        pixels = prepare_images(
            img, self.input_size_px, self.mean, self.std, self.resize_mode, self.interpolation
        )
        return self.model.encode_image(pixels, normalize=True).float()

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Embed N texts: `[N, embed_dim]` of unit norm."""
        tokens = self.tokenizer([clean_text(text) for text in texts]).to(self.device)
        return self.model.encode_text(tokens, normalize=True).float()


def list_models() -> list[str]:
    """Names of the architectures of the installed open_clip."""
    import open_clip

    return open_clip.list_models()


def split_spec(spec: str) -> tuple[str, str] | None:
    """Split `NAME`, `NAME/TAG` or `NAME/PATH` into name and tag or path; None for unknown names.

    OpenAI's spelling with a slash (`ViT-B/32`, `ViT-B/32/openai`) is accepted too.
    """
    known = set(list_models())
    parts = spec.split("/")
    for used in range(min(len(parts), 3), 0, -1):
        name = "-".join(parts[:used])
        if name in known:
            return name, "/".join(parts[used:])
    return None


def load_open_clip(name: str, source: str, device: str | torch.device) -> OpenClipEncoder:
    """Load an open_clip model.

    Args:
        name: an architecture.
        source: a local file, a pretrained tag, or "" for the best tag. Files are safetensors,
            weights-only checkpoints, or those of OpenAI's package `clip`; no code in them is run.
            Tags are downloaded once into the cache of the hub.
        device: where to run it.

    Raises ValueError, in one line, if the file does not fit, the tag is unknown or the download
    fails.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if source.endswith(WEIGHT_SUFFIXES) or Path(source).is_file():
        return _from_file(name, Path(source).expanduser(), device)
    tag = source or ("openai" if "openai" in tags else next(iter(tags), ""))
    if tag not in tags:
        raise ValueError(
            f"encoder: open_clip's {name} has no weights {tag or '(none)'!r}, expected one of"
            f" {', '.join(tags) or '(none)'}, or {name}/PATH with a local file"
        )
    # Some tags were trained with OpenAI's approximate GELU, which the architecture's name hides.
    quick_gelu = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    with _quiet(), ask_hub_once():
        try:
            model = open_clip.create_model(
                name, tag, device=device, force_quick_gelu=quick_gelu, weights_only=True
            )
            tokenizer = open_clip.get_tokenizer(name)
        except ModuleNotFoundError as error:
            raise _needs_package(name, error) from error
        except Exception as error:
            raise ValueError(
                f"encoder: could not download {name}/{tag} ({root_cause(error)}); offline, use"
                f" mini, or download the weights elsewhere and use {name}/FILE"
            ) from error
    return OpenClipEncoder(model, tokenizer, f"{name}/{tag}")


def _from_file(name: str, path: Path, device: str | torch.device) -> OpenClipEncoder:
    import open_clip

    if not path.is_file():
        raise ValueError(f"encoder: no file {path} with weights for {name}")
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    from_hub = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    with _quiet(), ask_hub_once() if from_hub else nullcontext():
        try:
            settings, is_script = _common_settings(name), is_torchscript(path)
            if is_script:  # a file of OpenAI
                settings["force_quick_gelu"] = True
            model = open_clip.create_model(name, pretrained=None, pretrained_text=False, **settings)
            if is_script:
                model.load_state_dict(_openai_state(path))
            else:
                open_clip.load_checkpoint(model, str(path), weights_only=True)
            tokenizer = open_clip.get_tokenizer(name)
        except ModuleNotFoundError as error:
            raise _needs_package(name, error) from error
        except OSError as error:
            raise ValueError(
                f"encoder: could not read {path} or download the tokenizer of {name}"
                f" ({root_cause(error)}); it is cached after one run online"
            ) from error
        except Exception as error:
            raise ValueError(
                f"encoder: {path} does not fit {name} ({root_cause(error)}); expected its"
                " state_dict as safetensors or a weights-only checkpoint"
            ) from error
    return OpenClipEncoder(model.to(device), tokenizer, f"{name}/{path.name}")


def _openai_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a file of OpenAI's package `clip`, which is a TorchScript program."""
    state = script_state(path)
    return {name: tensor for name, tensor in state.items() if name not in OPENAI_SIZES}


def _needs_package(name: str, error: ModuleNotFoundError) -> ValueError:
    return ValueError(
        f"encoder: {name} needs the package {error.name}, which is not installed; try:"
        " pip install 'sg3[siglip]'"
    )


def _common_settings(name: str) -> dict:
    """Arguments of `create_model` that a local file does not contain: size and normalization of
    images (SigLIP's differ from CLIP's) and the kind of GELU, where all published weights agree."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    common = {
        key: published[0][key]
        for key in ("mean", "std", "resize_mode", "interpolation", "quick_gelu")
        if published and all(entry.get(key) == published[0].get(key, ()) for entry in published)
    }
    quick_gelu = bool(common.pop("quick_gelu", False))
    return {"force_quick_gelu": quick_gelu, "force_preprocess_cfg": common or None}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide open_clip's log lines and warnings; errors arrive as exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
