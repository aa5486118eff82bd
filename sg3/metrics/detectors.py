"""Official feature networks: Inception for FID, KID and IS, VGG16 for precision and recall.

Weights are downloaded once (REFERENCE.md §6.1) or read from a file.
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

#: torch-fidelity's copy of the TensorFlow network of 2015; the name ends in part of its SHA-256.
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"
INCEPTION_DIM = 2048
VGG16_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt"
VGG16_DIM = 4096


class InceptionFeatures:
    """The 2048 pooled features of Inception-v3, from the package torch-fidelity."""

    def __init__(self, network: torch.nn.Module, name: str):
        self.network, self.name, self.dim = network, name, INCEPTION_DIM

    @property
    def num_classes(self) -> int:
        """Number of classes, 1008."""
        return self._class_weights.shape[0]

    @property
    def _class_weights(self) -> torch.Tensor:
        return self.network.get_parameter("fc.weight")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` to features float32 `[N, 2048]`."""
        device = next(self.network.parameters()).device
        return self.network(as_rgb(images.to(device)))[0]

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` to class probabilities float32 `[N, 1008]`.

        The last layer's bias is left out, as in the official implementation.
        """
        return (self(images) @ self._class_weights.T).softmax(dim=1)


class TorchScriptFeatures:
    """VGG16 as a TorchScript file: features, and vectors for LPIPS."""

    def __init__(self, network: torch.jit.ScriptModule, name: str, dim: int, device: torch.device):
        self._network, self.name, self.dim, self._device = network, name, dim, device

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 `[N, C, H, W]` to features float32 `[N, dim]`."""
        return self._network(as_rgb(images.to(self._device)), return_features=True)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map `[N, 3, H, W]` in [−1, 1] to `[N, D]`; squared distances are LPIPS.

        REFERENCE.md §6.1.
        """
        pixels = (images.to(self._device) + 1) * 127.5
        return self._network(pixels, resize_images=False, return_lpips=True)


def require_torch_fidelity() -> None:
    """Raise UserError if the package torch-fidelity is missing."""
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            "features: Inception needs the package torch-fidelity; install it with "
            'pip install "sg3[metrics]", or set `features` to mini, which is bundled'
        )


def load_inception(device: torch.device, path: str | None = None) -> InceptionFeatures:
    """Load Inception with the published weights, or with the state dict at `path`.

    Only the published weights get the plain name "inception". Raises UserError for a missing
    package, a failed download or an invalid file.
    """
    require_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = _existing(path) if path else _published_inception()
    published = sha256_of(file).startswith(INCEPTION_SHA256)
    # A file that the user names may hold other weights, a download may not.
    if not (published or path):
        raise UserError(f"{file}: checksum differs from {INCEPTION_URL}; delete it and try again")
    _check_state_dict(file)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(file))
    except RuntimeError:
        raise UserError(f"{file}: not a state dict of Inception-v3") from None
    return InceptionFeatures(
        network.to(device), "inception" if published else f"inception:{file.stem}"
    )


def _published_inception() -> Path:
    """Return torch-fidelity's copy of the weights if there is one, else that in our cache."""
    kept = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[-1]
    if kept.is_file() and sha256_of(kept).startswith(INCEPTION_SHA256):
        return kept
    return _fetch(INCEPTION_URL, "inception", INCEPTION_SHA256)


def _fetch(url: str, name: str, sha256: str | None = None) -> Path:
    try:
        return fetch(url, sha256)
    except UserError as error:
        # `error` ends with how to use a file that was downloaded elsewhere.
        hint = f"as `features` {name}:FILE; `features` mini needs no download"
        raise UserError(f"{error} {hint}") from None


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"features: {path}: no such file")
    return file


def _check_state_dict(file: Path) -> None:
    """Raise UserError unless `file` is a dict of plain tensors: torch-fidelity unpickles it."""
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a file of plain tensors written by torch.save")


def load_vgg16(device: torch.device, path: str | None = None) -> TorchScriptFeatures:
    """Load the VGG16 of published precision and recall from NVIDIA's TorchScript file.

    Raises UserError for a failed download or a different kind of file.
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
    """Load the same network for LPIPS, `TorchScriptFeatures.features`."""
    try:
        return load_vgg16(device, path)
    except UserError as error:  # its remedy is for feature networks
        raise UserError(f"{str(error).replace('mini needs', 'scales needs')}") from None
