"""The networks of published numbers: Inception for FID, KID and IS, VGG16 for precision/recall.

Their weights are downloaded once (REFERENCE.md §6.1), or read from a file.
"""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from pathlib import Path

import torch

from sg3.checkpoints.download import fetch
from sg3.errors import UserError
from sg3.files import sha256_of
from sg3.media.images import as_rgb

#: torch-fidelity's copy of the TensorFlow network of 2015; it names the start of its SHA-256.
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"
INCEPTION_DIM = 2048
VGG16_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt"
VGG16_DIM = 4096


class InceptionFeatures:
    """The 2048 pooled features of Inception-v3, by the package torch-fidelity.

    `probabilities` gives those of the 1008 classes, without the last bias.
    """

    def __init__(self, network: torch.nn.Module, name: str):
        self.network, self.name, self.dim = network, name, INCEPTION_DIM

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        return self.network(as_rgb(images.to(device)))[0]

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, C, H, W]` → float32 `[N, 1008]`, rows of sum 1."""
        last = self.network.fc.weight
        return (self(images) @ last.T).softmax(dim=1)


class TorchScriptFeatures:
    """A detector that was published as a TorchScript file."""

    def __init__(self, network: torch.jit.ScriptModule, name: str, dim: int, device: torch.device):
        self._network, self.name, self.dim, self._device = network, name, dim, device

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._network(as_rgb(images.to(self._device)), return_features=True)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, 3, H, W]` in [−1, 1] → vectors whose squared distance is LPIPS (REFERENCE.md §6.1)."""
        pixels = (images.to(self._device) + 1) * 127.5
        return self._network(pixels, resize_images=False, return_lpips=True)


def require_torch_fidelity() -> None:
    """Raise ValueError, in one line, where the package is missing."""
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            "features: Inception needs the package torch-fidelity; install it with "
            'pip install "sg3[metrics]", or choose the bundled features with --features mini'
        )


def load_inception(device: torch.device, path: str | None = None) -> InceptionFeatures:
    """Inception with the published weights, or with those of the state dict at `path`.

    Only the published weights carry the plain name. Raises UserError, in one line, for a missing
    package, a failed download, or a file that holds something else.
    """
    require_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = _existing(path) if path else _published_inception()
    published = sha256_of(file).startswith(INCEPTION_SHA256)
    if not (published or path):
        raise UserError(f"{file}: not the file that {INCEPTION_URL} names; delete it and try again")
    _check_state_dict(file)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(file))
    except RuntimeError:
        raise UserError(f"{file}: holds tensors of another network than Inception-v3") from None
    return InceptionFeatures(
        network.to(device), "inception" if published else f"inception:{file.stem}"
    )


def _published_inception() -> Path:
    """The weights where torch-fidelity keeps them, else in our cache, downloaded if need be."""
    kept = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[-1]
    if kept.is_file() and sha256_of(kept).startswith(INCEPTION_SHA256):
        return kept
    return _fetch(INCEPTION_URL, "inception")


def _fetch(url: str, name: str) -> Path:
    try:
        return fetch(url)
    except UserError as error:
        raise UserError(f"{error} as --features {name}:FILE; --features mini needs none") from None


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"features: {path}: no such file")
    return file


def _check_state_dict(file: Path) -> None:
    """torch-fidelity loads its file with pickle: only plain tensors may reach it."""
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a file of plain tensors, as torch.save writes")


def load_vgg16(device: torch.device, path: str | None = None) -> TorchScriptFeatures:
    """VGG16 as precision and recall are published with, from NVIDIA's TorchScript file.

    Raises UserError, in one line, for a failed download or another kind of file.
    """
    file = _existing(path) if path else _fetch(VGG16_URL, "vgg16")
    try:
        network = torch.jit.load(str(file), map_location=device).eval()
    except RuntimeError:
        raise UserError(f"{file}: not a TorchScript file") from None
    return TorchScriptFeatures(
        network, f"vgg16:{file.stem}" if path else "vgg16", VGG16_DIM, device
    )


def load_lpips(device: torch.device, path: str | None = None) -> TorchScriptFeatures:
    """The same network, for `TorchScriptFeatures.features`. Raises as `load_vgg16` does."""
    try:
        return load_vgg16(device, path)
    except UserError as error:
        raise UserError(f"{str(error).replace('mini needs', 'scales needs')}") from None
