"""Settings of `sg3 export`."""

from __future__ import annotations

from dataclasses import dataclass

from sg3.settings import check_settings, documented, setting

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}


@documented
@dataclass(frozen=True)
class ExportConfig:
    """Settings of an exported file."""

    format: str = setting("onnx", "Format of the file.", choices=tuple(SUFFIXES))
    part: str = setting(
        "both",
        "Part of the network: mapping (z to ws), synthesis (ws to image), or both in one.",
        choices=("both", "mapping", "synthesis"),
    )
    dynamic_batch: bool = setting(
        False, "Accept any number of images per call, not only one.", unset="one image per call"
    )
    half: bool = setting(
        False, "Store weights in half precision, which halves the file; computes in float32."
    )
    noise_mode: str = setting(
        "const", "Noise of a StyleGAN2; StyleGAN3 has none.", choices=("const", "none")
    )

    filters: str = setting(
        "depthwise",
        "Form of the filters: depthwise is the fastest in onnxruntime, grouped in browsers.",
        choices=("depthwise", "grouped"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
