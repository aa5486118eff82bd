"""The mini encoder: a small contrastive image-text model, one word one token, about two million
parameters.

`recipes/minifaces/encoder/train.py` trains it. A safetensors file holds the weights and, as JSON in
its metadata, configuration, vocabulary and provenance. The image tower is convolutional and keeps a
4 x 4 map to the end, so that small features survive; the text tower is a two-layer transformer.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from guidance.encoders.text import clean_text
from sg3.checkpoints.safetensors_io import json_object
from sg3.errors import DAMAGE
from sg3.files import write_tensors

FORMAT = "sg3-mini-encoder"
PAD, UNKNOWN = 0, 1
# Pixels are used in [-1, 1] as they are: there are no channel statistics.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of both towers.

    Attributes:
        vocabulary: the words that the text tower knows.
        widths: channels of the image tower at 32, 16, 8 and 4 pixels.
        hidden: width of the image tower's head.
        embed_dim: size of an embedding.
        text_width: width of the text tower.
        text_layers: number of its blocks.
        text_heads: number of its attention heads.
        context: longest text, in words.
    """

    vocabulary: tuple[str, ...]
    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    hidden: int = 256
    embed_dim: int = 192
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context: int = 24


def _words(text: str) -> list[str]:
    """Lower-case words of a cleaned text, without possessive endings: "the man's hat" → the, man,
    hat. Words with accents stay whole."""
    return re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", clean_text(text).lower()))


class Tokenizer:
    """Maps words to tokens: 0 is padding, 1 any unknown word."""

    def __init__(self, vocabulary: Sequence[str], context: int = 24) -> None:
        self.vocabulary = tuple(vocabulary)
        self.context = context
        self._number = {word: i + 2 for i, word in enumerate(self.vocabulary)}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens of N texts, int64 `[N, L]`, padded to the longest; cut to `context` words."""
        # A text without words gets one token: attention over padding alone would be NaN.
        rows = [self._numbers(text) or [UNKNOWN] for text in texts]
        length = max(map(len, rows), default=1)
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.long)

    def _numbers(self, text: str) -> list[int]:
        return [self._number.get(w, UNKNOWN) for w in _words(text)][: self.context]

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are not in the vocabulary, in order."""
        return [w for w in _words(text) if w not in self._number]


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    )


class ImageTower(nn.Module):
    """Images `[N, 3, 64, 64]` in [-1, 1] to `[N, embed_dim]`."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        a, b, c, d = config.widths
        self.features = nn.Sequential(
            _conv(3, a, kernel=4, stride=2), _conv(a, a), nn.AvgPool2d(2),
            _conv(a, b), _conv(b, b), nn.AvgPool2d(2),
            _conv(b, c), _conv(c, c), nn.AvgPool2d(2),
            _conv(c, d),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(16 * d, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.embed_dim)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).flatten(1))

    def folded(self) -> ImageTower:
        """A copy for inference that is a fifth faster on a CPU: batch norms are folded into the
        convolutions, and the memory format is channels last."""
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        for part in copied.features:
            if isinstance(part, nn.Sequential):
                conv, norm = part[0], part[1]
                assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                part[0], part[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
        return copied.to(memory_format=torch.channels_last)


class TextBlock(nn.Module):
    """Pre-norm self-attention and MLP.

    `x`: `[N, L, width]`; `mask`: bool `[N, 1, 1, L]`, True = attend.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x))
        q, k, v = rearrange(qkv, "n l (three h d) -> three n h l d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(rearrange(attended, "n h l d -> n l (h d)"))
        return x + self.mlp(self.norm2(x))


class TextTower(nn.Module):
    """Tokens `[N, L]` to `[N, embed_dim]`: a transformer, averaged over the words."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        width = config.text_width
        self.words = nn.Embedding(len(config.vocabulary) + 2, width, padding_idx=PAD)
        self.places = nn.Parameter(torch.randn(config.context, width) * 0.02)
        self.blocks = nn.ModuleList(
            TextBlock(width, config.text_heads) for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.embed_dim)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        present = tokens != PAD
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, present[:, None, None])
        weight = present[..., None].to(x.dtype)
        return self.head((self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1))


class MiniEncoder(nn.Module):
    """A small image-text model with the interface `Encoder`."""

    input_size_px = 64
    mean, std = MEAN, STD

    def __init__(self, config: MiniConfig, name: str = "mini") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.embed_dim = config.embed_dim
        self.tokenizer = Tokenizer(config.vocabulary, config.context)
        self.image_tower = ImageTower(config)
        self.text_tower = TextTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())
        self.provenance: dict = {}
        # In a list, so that the tower is no submodule and not part of the state_dict.
        self._folded: list[ImageTower] = []

    def fold(self) -> MiniEncoder:
        """Switch to eval mode with a faster image tower, until `train` is called; returns self."""
        self._folded = [self.image_tower.folded()]
        return self.eval()

    def train(self, mode: bool = True) -> MiniEncoder:
        """Set training mode; drops the folded tower, whose weights would become outdated."""
        if mode:
            self._folded = []
        return super().train(mode)

    def _apply(self, function, recurse: bool = True) -> MiniEncoder:
        for tower in self._folded:
            tower._apply(function)
        return super()._apply(function, recurse)

    def encode_images(self, img: Tensor) -> Tensor:
        """Embed images `[N, 3, H, W]` in [-1, 1], at 64 x 64 pixels: `[N, embed_dim]` of unit norm.

        Differentiable. Raises ValueError for another number of channels.
        """
        (tower,) = self._folded or [self.image_tower]
        return F.normalize(tower(self._at_input_size(img)), dim=-1)

    def _at_input_size(self, img: Tensor) -> Tensor:
        if img.ndim != 4 or img.shape[1] != 3:
            raise ValueError(
                f"img: got shape {tuple(img.shape)}, expected [N, 3, H, W]; convert to RGB first"
            )
        if img.shape[-2:] != (64, 64):
            img = F.interpolate(
                img, size=(64, 64), mode="bilinear", antialias=True, align_corners=False
            )
        return img

    def feature_maps(self, img: Tensor) -> list[Tensor]:
        """Return maps at 32, 16, 8 and 4 pixels of images `[N, 3, H, W]` in [-1, 1].

        Differentiable. Their channels are `config.widths`.
        """
        (tower,) = self._folded or [self.image_tower]
        x, maps = self._at_input_size(img), []
        for part in tower.features:
            if isinstance(part, nn.AvgPool2d):
                maps.append(x)
            x = part(x)
        return [*maps, x]

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: `[N, embed_dim]` of unit norm. All unknown words share one token."""
        tokens = self.tokenizer(texts).to(self.logit_scale.device)
        return F.normalize(self.text_tower(tokens), dim=-1)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are not in the vocabulary."""
        return self.tokenizer.unknown_words(text)

    def save(self, path: str | os.PathLike[str], provenance: dict | None = None) -> None:
        """Write a safetensors file with float16 weights and JSON metadata, atomically."""
        metadata = {
            "format": FORMAT,
            "version": "1",
            "config": json.dumps(asdict(self.config)),
            "provenance": json.dumps(provenance if provenance is not None else self.provenance),
        }
        tensors = {
            name: t.half() if t.is_floating_point() else t for name, t in self.state_dict().items()
        }
        write_tensors(path, tensors, metadata)

    @staticmethod
    def load(
        path: str | os.PathLike[str], device: torch.device | str = "cpu", name: str = "mini"
    ) -> MiniEncoder:
        """Load a file of `save` for inference: eval mode, float32, weights without gradients.

        Raises ValueError if the file is not a mini encoder, OSError if it is missing.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"encoder: got {path}, expected a safetensors file ({error})"
            ) from error
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"encoder: got {path} with format {metadata.get('format')!r}, expected {FORMAT!r}; "
                "for a CLIP checkpoint name its architecture first, as in ViT-B-32/FILE"
            )
        try:
            config = json_object(metadata, "config")
            config = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
            model = MiniEncoder(MiniConfig(**config), name)
            model.load_state_dict(
                {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
            )
            model.provenance = json_object(metadata, "provenance")
        except (ValueError, *DAMAGE) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"encoder: {path} is damaged: {reason}") from None
        return model.requires_grad_(False).fold().to(device)
