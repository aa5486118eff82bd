"""Parser of metric names (REFERENCE.md §6.1).

fid50k_full, kid50k_full, pr50k3_full    compared with all real images, without flips
fid50k, kid50k, pr50k3                   compared with as many images of the dataset as configured
is50k, eqt50k_int, eqt50k_frac, eqr50k   without real images
ppl2_wend (= ppl50k_wend), ppl50k_zfull  path lengths in W or Z, at the end or anywhere on the path
fd50k_full_dinov2, cmmd50k_full          with DINOv2 and CLIP; short names fd_dinov2 and cmmd
fd2k_full_mini, kd2k_mini, pr2k3_mini    with features other than the official ones

The number is that of generated images in thousands; any works, also 0.5k.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sg3.metrics.detectors import require_torch_fidelity
from sg3.metrics.features import FEATURES, PERCEPTUAL

#: kind → official features, and the maximum number of real images with "_full".
DISTANCES = {
    "fid": ("inception", None), "kid": ("inception", 1_000_000), "pr": ("vgg16", 200_000),
    "cmmd": ("clip:ViT-L-14-336/openai", None),
}  # fmt: skip
#: Kinds are renamed when computed with features other than the official ones.
RENAMED = {"fid": "fd", "kid": "kd", "pr": "pr", "cmmd": "mmd"}
#: Whether a higher value is better, by the kind that a name starts with.
HIGHER_IS_BETTER = {
    "fid": False, "fd": False, "kid": False, "kd": False, "cmmd": False, "mmd": False,
    "ppl": False, "pr": True, "is": True, "eqt": True, "eqr": True,
}  # fmt: skip
PATHS = "vgg16"  # official perceptual distance of path lengths
SHORT = {"fd_dinov2": "fd50k_full_dinov2", "cmmd": "cmmd50k_full", "ppl2_wend": "ppl50k_wend"}
EXAMPLES = (
    *SHORT, "ppl{n}k_wend", "ppl{n}k_zfull", "ppl{n}k_wend_scales", "fd{n}k_full_dinov2",
    "cmmd{n}k_full", "mmd{n}k_full_mini",
    "fid{n}k_full", "kid{n}k_full", "pr{n}k3_full", "fid{n}k", "kid{n}k", "pr{n}k3", "is{n}k",
    "eqt{n}k_int", "eqt{n}k_frac", "eqr{n}k", "fd{n}k_full_mini", "kd{n}k_full_mini",
    "pr{n}k3_full_mini",
)  # fmt: skip

COUNT = r"(?P<count>\d{1,6}(?:\.\d{1,3})?)k"
PATTERNS = (
    rf"(?P<kind>fid|fd|kid|kd|cmmd|mmd){COUNT}(?P<full>_full)?(?:_(?P<features>.+))?",
    rf"(?P<kind>pr){COUNT}(?P<neighbour>\d{{1,3}})(?P<full>_full)?(?:_(?P<features>.+))?",
    rf"(?P<kind>is|eqr){COUNT}",
    rf"(?P<kind>eqt){COUNT}(?P<variant>_int|_frac)",
    rf"(?P<kind>ppl){COUNT}(?P<variant>_[wz](?:end|full))(?:_(?P<features>.+))?",
)


@dataclass(frozen=True)
class Metric:
    """A parsed metric name.

    Attributes:
        kind: fid, kid, cmmd, pr, is, eqt_int, eqt_frac, eqr, ppl_wend, ppl_wfull, …
        count: generated images in thousands, as written.
        full: compare with all real images, without flips.
        neighbour: which nearest neighbour, for precision and recall.
        features: feature network or perceptual distance; None for metrics without.
    """

    kind: str
    count: str
    full: bool = False
    neighbour: int = 0
    features: str | None = None

    @property
    def num(self) -> int:
        """Number of generated images."""
        return round(float(self.count) * 1000)

    @property
    def needs_real_images(self) -> bool:
        """Whether it compares generated with real images."""
        return self.kind in DISTANCES

    @property
    def max_real(self) -> int | None:
        """Maximum number of real images to compare with; None for all."""
        return DISTANCES[self.kind][1] if self.full else self.num

    def name(self, features: str | None = None) -> str:
        """Return the name of results computed with `features`, fit for a file name."""
        if self.kind not in DISTANCES:
            kind, _, variant = self.kind.partition("_")
            name = f"{kind}{self.count}k{variant and '_'}{variant}"
            if kind != "ppl" or features in (PATHS, None):
                return {full: short for short, full in SHORT.items() if kind == "ppl"}.get(
                    name, name
                )
            return f"{name}_{_for_file_name(features)}"
        official = features == DISTANCES[self.kind][0]
        kind = self.kind if official else RENAMED[self.kind]
        suffix = "" if official else "_" + _for_file_name(features or "")
        neighbour = self.neighbour or ""
        return f"{kind}{self.count}k{neighbour}{'_full' if self.full else ''}{suffix}"


def parse_name(name: str, features: str | None = None) -> Metric:
    """Parse a metric name.

    Args:
        name: the name.
        features: replaces the official features or perceptual distance if the name has none.

    Raises ValueError for unknown names, with the nearest known ones.
    """
    patterns = (re.fullmatch(pattern, SHORT.get(name, name)) for pattern in PATTERNS)
    match = next(filter(None, patterns), None)
    found = match.groupdict() if match else {}
    path_length = found.get("kind") == "ppl"
    networks = PERCEPTUAL if path_length else FEATURES
    if features is not None:
        networks.check(features)
    if match is None or (found.get("features") and networks.find(found["features"]) is None):
        raise _unknown(name)
    kind = {"fd": "fid", "kd": "kid", "mmd": "cmmd"}.get(found["kind"], found["kind"])
    if kind in DISTANCES:
        features = found.get("features") or features or DISTANCES[kind][0]
    elif kind == "is":
        features = features or "inception"
        if features.partition(":")[0] != "inception":
            raise ValueError(f"metrics: {name} needs the classes of Inception, got {features}")
    elif path_length:
        features = found.get("features") or features or PATHS
    else:
        features = None
    metric = Metric(
        kind=kind + (found.get("variant") or ""),
        count=found["count"],
        full=bool(found.get("full")),
        neighbour=int(found.get("neighbour") or 0),
        features=features,
    )
    minimum = max(2, metric.neighbour + 1)
    if metric.num < minimum or (kind == "pr" and metric.neighbour < 1):
        raise ValueError(
            f"metrics: got {name!r}, expected at least {minimum} images and neighbour 1"
        )
    return metric


def higher_is_better(name: str) -> bool | None:
    """Return whether a higher value of the metric `name` is better; None for unknown kinds."""
    kind = re.match(r"[a-z]*", name)
    return HIGHER_IS_BETTER.get(kind[0] if kind else "")


def _for_file_name(features: str) -> str:
    return re.sub(r"[^\w.-]+", "-", features)


def _unknown(name: str) -> ValueError:
    number = re.search(r"\d+(?:\.\d+)?", name)
    names = [example.format(n=number[0] if number else "50") for example in EXAMPLES]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"known are {', '.join(names)}"
    return ValueError(f"metrics: unknown name {name!r}; {hint}")


def check_names(names: Sequence[str], features: str | None = None) -> None:
    """Raise ValueError for names that `evaluate` would reject, and for missing packages.

    Reads no files and downloads nothing.
    """
    for name in names:
        metric = parse_name(name, features)
        if (metric.features or "").partition(":")[0] == "inception":
            require_torch_fidelity()
