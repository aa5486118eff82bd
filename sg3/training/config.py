"""What a training run is told: one frozen record of the official options and ours (REFERENCE.md §4.8)."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

CHOICES = {
    "cfg": ("stylegan3-t", "stylegan3-r", "stylegan2"),
    "aug": ("noaug", "ada", "fixed"),
    "loss": ("stylegan2", "rpgan"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
    "cache": ("auto", "ram", "none"),
}
COUNTS = ("batch", "snap", "d_reg_interval", "mbstd_group", "keep_states")
POSITIVE = ("kimg", "tick", "glr", "dlr", "ema_kimg")
#: option → least and greatest value
RANGES = {
    "gamma": (0, math.inf), "p": (0, 1), "target": (0, 1), "initial_p": (0, 1),
    "glr_warmup_kimg": (0, math.inf), "blur_percent": (0, 100), "state_minutes": (0, math.inf),
    "freezed": (0, math.inf), "workers": (0, math.inf), "seed": (0, 2**32 - 1),
}  # fmt: skip
LEAST = {"margin_size": 0, "num_layers": 3}  # of ARCHITECTURE; 1 for the others
MAX_GRID = 100  # pictures per side
#: Arguments of the networks: None takes those of the network that --resume names, or the preset.
ARCHITECTURE = (
    "cbase", "cmax", "dcbase", "dcmax", "z_dim", "w_dim", "num_layers", "margin_size", "map_depth",
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run. None means: derived from the others (`resolved`, `sg3.training.presets`).

    Lengths are counted in thousands of real images shown (kimg). Raises ValueError, in one line
    that names the option, for values that do not fit.
    """

    outdir: str
    data: str
    cfg: str = "stylegan3-t"
    batch: int = 32  # of all processes together
    gamma: float | None = None  # weight of R1; 0.0002·resolution²/batch if left out
    batch_gpu: int | str | None = None  # images per pass; 'auto' halves it when memory runs out

    cond: bool = False
    mirror: bool = False
    mirror_y: bool = False
    max_images: int | None = None
    cache: str = "auto"
    workers: int = 3

    aug: str = "ada"
    augpipe: str = "bgc"
    p: float = 0.2  # of --aug fixed
    target: float = 0.6  # of --aug ada
    initial_p: float = 0.0

    # 'latest' continues a run, a network starts from its weights, 'latest,NETWORK' does the first
    # if it can.
    resume: str | None = None
    from_network: bool = False  # a run's own record: it began with a network's weights
    freezed: int = 0
    freeze_mapping: bool = False

    cbase: int | None = None
    cmax: int | None = None
    dcbase: int | None = None  # of the discriminator; cbase and cmax if left out
    dcmax: int | None = None
    z_dim: int | None = None
    w_dim: int | None = None
    num_layers: int | None = None  # of StyleGAN3's synthesis
    margin_size: int | None = None
    map_depth: int | None = None

    loss: str = "stylegan2"
    glr: float | None = None
    dlr: float = 0.002
    glr_warmup_kimg: float = 0  # G's rate rises from 0: for a trained G that meets a random D
    mbstd_group: int = 4
    d_reg_interval: int = 16
    blur_percent: float | None = None  # R's blur fades over that share of the run
    ema_kimg: float | None = None  # half-life of the averaged generator
    ema_rampup: float | None = 0.05

    kimg: float = 25000
    tick: float = 4
    snap: int = 50
    metrics: tuple[str, ...] = ()
    keep_states: int = 2
    state_minutes: float = 15  # a state at the next tick when the last one is older
    grid: tuple[int, int] | None = None  # columns, rows of the picture grids
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    compile: bool = False
    nobench: bool = False
    desc: str | None = None

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{_option(name)}: got {value!r}, expected {' or '.join(allowed)}")
        for name in (*COUNTS, *ARCHITECTURE):
            value, least = getattr(self, name), LEAST.get(name, 1)
            if value is not None and value < least:
                raise ValueError(f"{_option(name)}: got {value}, expected at least {least}")
        self._check_numbers()
        if self.cfg == "stylegan2" and (self.num_layers or self.margin_size) is not None:
            raise ValueError("--num-layers, --margin-size: only StyleGAN3 has them")
        if self.grid is not None and not all(1 <= n <= MAX_GRID for n in self.grid):
            size = "x".join(map(str, self.grid))
            raise ValueError(f"--grid: got {size}, expected 1 to {MAX_GRID} pictures per side")
        if self.desc is not None and not re.fullmatch(r"[^/\\\0]{0,100}", self.desc):
            raise ValueError(
                f"--desc: got {self.desc[:110]!r}, expected part of a folder's name: at most 100 "
                "characters, no slashes"
            )

    def _check_numbers(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None or not isinstance(value, (int, float)):
                continue
            if not math.isfinite(value):
                raise ValueError(f"{_option(name)}: got {value}, expected a finite number")
            if name in POSITIVE and value <= 0:
                raise ValueError(f"{_option(name)}: got {value}, expected a positive number")
            least, most = RANGES.get(name, (-math.inf, math.inf))
            if not least <= value <= most:
                upto = "or more" if most == math.inf else f"to {most}"
                raise ValueError(f"{_option(name)}: got {value}, expected {least} {upto}")

    def resolved(self, resolution: int, world_size: int = 1) -> TrainConfig:
        """A copy without None where a rule of REFERENCE.md §4.8 gives the value.

        `resolution` is the larger side in pixels. Raises ValueError if `batch` cannot be shared
        among `world_size` processes.
        """
        if self.batch % world_size:
            raise ValueError(
                f"--batch: got {self.batch}, expected a multiple of the {world_size} processes"
            )
        columns, rows = max(7680 // resolution, 7), max(4320 // resolution, 4)
        derived = {
            "gamma": 0.0002 * resolution**2 / self.batch,
            "batch_gpu": self.batch // world_size,
            "glr": 0.002 if self.cfg == "stylegan2" else 0.0025,
            "ema_kimg": self.batch * 10 / 32,
            "grid": (min(columns, 32), min(rows, 32)),
        }
        missing = {k: v for k, v in derived.items() if getattr(self, k) is None}
        config = dataclasses.replace(self, **missing)
        config._check_passes(self.batch // world_size)
        return config

    def _check_passes(self, share: int) -> None:
        """A process's share of the batch must split into passes, and these into groups."""
        size = share if self.batch_gpu == "auto" else self.batch_gpu
        if not isinstance(size, int) or size < 1 or share % size:
            raise ValueError(
                f"--batch-gpu: got {size}, expected 'auto' or a divisor of the {share} images "
                "that each process gets of --batch"
            )
        if size % min(self.mbstd_group, size):
            raise ValueError(
                f"--mbstd-group: got {self.mbstd_group}, expected a divisor of the "
                f"{size} images per pass"
            )
        if size < share and size < self.mbstd_group:
            raise ValueError(
                f"--batch-gpu: got {size}, expected at least --mbstd-group {self.mbstd_group}"
            )

    @property
    def wants_latest(self) -> bool:
        """Whether to go on with a run of this description if there is one."""
        return self.resume is not None and self.resume.partition(",")[0] == "latest"

    @property
    def start_network(self) -> str | None:
        """The network that a new run starts from."""
        if self.wants_latest:
            return self.resume.partition(",")[2] or None
        return self.resume

    def begun_with_network(self) -> TrainConfig:
        """A copy with what a start from trained weights changes: no EMA ramp-up (REFERENCE.md §4.8)."""
        return dataclasses.replace(self, from_network=True, ema_rampup=None)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
