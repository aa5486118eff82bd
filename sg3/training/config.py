"""Options of a training run (REFERENCE.md §4.8).

This module does not import torch: the command line builds its options from it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from sg3.errors import UserError
from sg3.settings import check_settings, documented, setting

CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
#: Names in `sg3.networks.augment` and `diffaugment`, which cannot be imported without torch.
AUGMENTATIONS = (
    "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc",
)  # fmt: skip
BUDGETS = ("standard", "small")
LOGGERS = ("tensorboard", "trackio", "wandb")  # see sg3.training.loggers
DIFFAUG_POLICIES = ("color", "translation", "cutout")
MAX_GRID = 100  # images per side
MAX_DESC_LENGTH = 100
SMALL_GAMMA, SMALL_CBASE = 10, 2048  # gamma of networks up to this `cbase`
MAX_EMA_LENGTH = 12**-0.5  # of a power function: that of the plain mean over a run


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks that start from random weights; fields as in `TrainConfig`."""

    cbase: int = 32768
    cmax: int = 512
    z_dim: int = 512
    w_dim: int = 512
    map_depth: int = 2
    num_layers: int = 14
    margin_size: int = 10


#: For images of up to 64 pixels (docs/TRAINING.md).
SMALL = Sizes(
    cbase=512, cmax=64, z_dim=64, w_dim=64, map_depth=2, num_layers=6, margin_size=3
)  # fmt: skip


def _size(doc: str, default: str, small: int, min: int = 1) -> Any:
    """A network argument: None takes it from the network to start from, else from the budget."""
    text = f"{default}, or from the resumed network; `budget` small: {small}"
    return setting(None, doc, min=min, unset=text)


@documented
@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run.

    Lengths count real images shown to the discriminator, in thousands (kimg). A field that is
    None is derived from the others (`resolved`) or taken from the network that `resume` names.
    Raises ValueError, naming the field, for values that are out of range or contradict each other.
    """

    outdir: str = setting(doc="Parent folder; every run creates a numbered folder in it.")
    data: str = setting(
        doc="Training images: a folder, a zip, or WebDataset tar shards (TARS), given as their "
        "folder or a pattern such as shards-{000..063}.tar."
    )
    cfg: str = setting("stylegan3-t", "Base configuration.", choices=CONFIGS)
    budget: str = setting(
        "standard",
        "Defaults of sizes and losses. standard: those of the official trainer, for days on GPUs; "
        "small: for images up to 64 pixels, hours, and a CPU.",
        choices=BUDGETS,
    )
    batch: int = setting(32, "Batch size over all processes.", min=1)
    gamma: float | None = setting(
        None,
        "R1 regularization weight. The default is a starting point; tune it by factors of two.",
        min=0,
        unset="0.0002·resolution²/batch; `budget` small or cbase up to 2048: 10",
    )
    gamma_end: float | None = setting(
        None,
        "R1 weight that gamma approaches geometrically in the first gamma_kimg of the run.",
        above=0,
        unset="same as gamma; `budget` small: gamma / 10",
    )
    gamma_kimg: float = setting(200, "Length of the approach to gamma_end in kimg.", above=0)
    batch_gpu: int | str | None = setting(
        None,
        "Images per forward pass of one process; gradients of several passes are accumulated. "
        "'auto' halves it when memory runs out.",
        unset="batch / processes",
    )

    cond: bool = setting(False, "Train with class labels, from dataset.json or subfolders.")
    mirror: bool = setting(False, "Add horizontally flipped images.")
    mirror_y: bool = setting(False, "Add vertically flipped images.")
    max_images: int | None = setting(
        None, "Maximum number of training images.", min=1, unset="all images"
    )
    cache: str = setting(
        "auto",
        "Keep all decoded images in memory; auto: if they take less than a quarter of it.",
        choices=("auto", "ram", "none"),
    )
    workers: int = setting(3, "Processes that decode images.", min=0)

    aug: str = setting(
        "ada",
        "Augmentation of the images that D sees. ada, fixed: operations of augpipe, with an "
        "adaptive or fixed probability; diffaug: DiffAugment (arXiv 2006.10738); apa: shows "
        "generated images as real, with an adaptive probability (arXiv 2111.06849).",
        choices=("noaug", "ada", "fixed", "diffaug", "apa"),
    )
    augpipe: str = setting(
        "bgc",
        "Augmentation operations. blit: flips and shifts; geom: scaling, rotation, stretching; "
        "color; filter; noise; cutout; bg, bgc, … combine them.",
        choices=AUGMENTATIONS,
    )
    diffaug: tuple[str, ...] = setting(DIFFAUG_POLICIES, "Operations of diffaug.")
    p: float = setting(0.2, "Probability of fixed augmentation.", min=0, max=1)
    target: float = setting(
        0.6,
        "Target of ada, apa: mean sign of D on real images; higher augments less.",
        min=0,
        max=1,
    )
    initial_p: float = setting(0.0, "Initial probability of ada and apa.", min=0, max=1)

    resume: str | None = setting(
        None,
        "'latest' resumes the newest run with these options in the output folder, bit for bit, or "
        "starts one. A network starts a new run from its weights and provides the sizes that are "
        "not given. 'latest,NETWORK' resumes if possible and otherwise starts from NETWORK.",
        unset="random weights",
    )
    from_network: bool = setting(
        False, "(internal) Set by the trainer if the run started from a network."
    )
    freezed: int = setting(0, "Number of D's first layers to freeze.", min=0)
    freeze_mapping: bool = setting(False, "Freeze G's mapping network.")
    freeze_g: int = setting(
        0, "Number of G's first, coarse synthesis layers to freeze, as `sg3 inspect` lists.", min=0
    )

    cbase: int | None = _size(
        "Channel base (capacity) of G and D; doubled in G for R.", "32768", SMALL.cbase
    )
    cmax: int | None = _size(
        "Maximum channels per layer of G and D; doubled in G for R.", "512", SMALL.cmax
    )
    dcbase: int | None = setting(None, "Channel base of D.", min=1, unset="same as cbase")
    dcmax: int | None = setting(
        None, "Maximum channels per layer of D.", min=1, unset="same as cmax"
    )
    z_dim: int | None = _size("Dimension of the latent z.", "512", SMALL.z_dim)
    w_dim: int | None = _size("Dimension of the intermediate latent w.", "512", SMALL.w_dim)
    num_layers: int | None = _size(
        "StyleGAN3 synthesis layers before ToRGB.", "14", SMALL.num_layers, min=3
    )
    margin_size: int | None = _size(
        "StyleGAN3 margin around the image in pixels.", "10", SMALL.margin_size, min=0
    )
    map_depth: int | None = _size(
        "Layers of the mapping network.", "2, 8 for stylegan2", SMALL.map_depth
    )

    loss: str = setting(
        "stylegan2",
        "stylegan2: non-saturating loss with R1. rpgan: relativistic pairing loss with R1 and R2. "
        "hinge: hinge loss with R1, without it for a projected discriminator.",
        choices=("stylegan2", "rpgan", "hinge"),
    )
    discriminator: str = setting(
        "stylegan2",
        "projected: judges frozen features (arXiv 2111.01007), for few images; needs loss hinge.",
        choices=("stylegan2", "projected"),
    )
    features: str = setting("mini", "Features of a projected D: mini, or timm:MODEL[/FILE].")
    style_mixing_prob: float | None = setting(
        None,
        "Style mixing probability.",
        min=0,
        max=1,
        unset="0.9 for stylegan2 with the standard `budget`, otherwise 0",
    )
    pl_weight: float | None = setting(
        None,
        "Path length regularization weight.",
        min=0,
        unset="2 for stylegan2 with the standard `budget`, otherwise 0",
    )
    glr: float | None = setting(
        None, "Learning rate of G.", above=0, unset="0.0025, 0.002 for stylegan2"
    )
    dlr: float = setting(0.002, "Learning rate of D.", above=0)
    glr_warmup_kimg: float = setting(
        0, "Linear warmup of G's learning rate in kimg, for a trained G with an untrained D.", min=0
    )
    d_first_kimg: float = setting(
        0, "Train only D for so many kimg first, for a trained G with an untrained D.", min=0
    )
    mbstd_group: int = setting(4, "Minibatch standard deviation group size of D.", min=1)
    d_reg_interval: int | None = setting(
        None,
        "Steps between R1 (and R2) updates (lazy regularization); 1 joins them with the main loss.",
        min=1,
        unset="16, 4 for rpgan",
    )
    blur_percent: float | None = setting(
        None,
        "Blur the inputs of D at first; the blur fades over this percentage of the run.",
        min=0,
        max=100,
        unset="stylegan3-r from random weights: fades over 6.25·batch kimg; others: no blur",
    )
    ema_kimg: float | None = setting(
        None, "EMA half-life of G in kimg.", above=0, unset="0.3125·batch"
    )
    ema_rampup: float | None = setting(
        0.05,
        "Limit the EMA half-life to this fraction of the images shown; None: no limit.",
        min=0,
    )

    posthoc_ema: tuple[float, ...] = setting(
        (),
        "Store power-function averages of G of these lengths (sigma_rel) with every snapshot, from "
        "which `sg3 ema` makes one of any length after training. The option alone: 0.05,0.1.",
    )

    kimg: float = setting(25000, "Length of the run in kimg.", above=0)
    tick: float = setting(4, "kimg between progress reports (ticks).", above=0)
    snap: int = setting(50, "Ticks between snapshots: network, image grid, metrics.", min=1)
    metrics: tuple[str, ...] = setting(
        (),
        "Metrics to evaluate at every snapshot, such as fid50k_full (downloads Inception) or "
        "fd2k_full_mini (bundled encoder). The best snapshot by the first one is kept.",
    )
    metric_every: int = setting(
        1, "Snapshots between evaluations of the metrics; the last is always evaluated.", min=1
    )
    keep_states: int = setting(2, "Number of training states to keep.", min=1)
    state_minutes: float = setting(
        15, "Save the training state at the first tick after this many minutes.", min=0
    )
    grid: tuple[int, int] | None = setting(
        None,
        "Columns and rows of the image grids.",
        unset="as many as fit into 7680x4320, 7x4 to 32x32",
    )
    seed: int = setting(0, "Random seed.", min=0, max=2**32 - 1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:INDEX, mps or xpu.")
    threads: int | None = setting(
        None, "CPU threads per process.", min=1, unset="PyTorch's default"
    )
    precision: str = setting(
        "auto",
        "Precision of the finer layers on a GPU; auto is fp16. CPUs always compute in fp32.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    compile: bool = setting(False, "Compile G's synthesis network with torch.compile.")
    nobench: bool = setting(False, "Disable cuDNN benchmarking.")
    desc: str | None = setting(None, "Suffix of the run folder's name.", unset="no suffix")
    log: tuple[str, ...] | None = setting(
        None,
        f"Services that get statistics, metrics and image grids: {', '.join(LOGGERS)}. Their "
        "packages are installed with pip. torchrun has options that begin with --log: as its "
        "argument, write --loggers.",
        unset="numbers to tensorboard, if it is installed",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cfg == "stylegan2" and (self.num_layers or self.margin_size) is not None:
            raise UserError("num_layers, margin_size: got a value, but `cfg` stylegan2 has neither")
        if self.gamma == 0 and self.gamma_end is not None:
            raise UserError(
                f"gamma_end: got {self.gamma_end:g}, but `gamma` is 0; set `gamma` as well"
            )
        unknown = [name for name in self.log or () if name not in LOGGERS]
        if unknown:
            raise UserError(f"log: got {unknown[0]!r}, expected names of {', '.join(LOGGERS)}")
        if self.discriminator == "projected" and self.loss != "hinge":
            raise UserError(f"loss: got {self.loss}, expected hinge for a projected D")
        if self.discriminator == "projected" and (self.cond or self.freezed):
            raise UserError("cond, freezed: got a value, but a projected D has neither")
        unknown = [name for name in self.diffaug if name not in DIFFAUG_POLICIES]
        if unknown or not self.diffaug:
            got = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"diffaug: got {got}, expected some of {', '.join(DIFFAUG_POLICIES)}")
        if self.grid is not None and not all(1 <= n <= MAX_GRID for n in self.grid):
            size = "x".join(map(str, self.grid))
            raise UserError(f"grid: got {size}, expected 1 to {MAX_GRID} images per side")
        if self.desc is not None and not re.fullmatch(
            rf"[^/\\\0]{{0,{MAX_DESC_LENGTH}}}", self.desc
        ):
            raise UserError(
                f"desc: got {self.desc[: MAX_DESC_LENGTH + 10]!r}, expected a folder name suffix: "
                f"at most {MAX_DESC_LENGTH} characters, no slashes"
            )
        self._check_ema_lengths()

    def _check_ema_lengths(self) -> None:
        lengths = self.posthoc_ema
        distinct = len(lengths) in (0, len(set(lengths))) and len(lengths) != 1
        if not distinct or not all(0 < length < MAX_EMA_LENGTH for length in lengths):
            raise UserError(
                f"posthoc_ema: got {','.join(map(str, lengths))}, expected at least two different "
                f"lengths above 0 and below {MAX_EMA_LENGTH:.4f}, like 0.05,0.1"
            )

    def resolved(self, resolution: int, world_size: int = 1) -> TrainConfig:
        """Return a copy with every field derived that REFERENCE.md §4.8 has a rule for.

        Args:
            resolution: larger image side in pixels.
            world_size: number of processes.

        Raises ValueError if the batch cannot be split over processes, passes and groups.
        """
        self.check_split(world_size)
        columns, rows = max(7680 // resolution, 7), max(4320 // resolution, 4)
        small, stylegan2 = self.budget == "small", self.cfg == "stylegan2"
        few_channels = small or (self.cbase is not None and self.cbase <= SMALL_CBASE)
        derived: dict[str, Any] = {
            # A starting point: published weights scale like this (REFERENCE.md §4.8). Networks of
            # few channels lose their modes with so little (docs/LOG.md).
            "gamma": SMALL_GAMMA if few_channels else 0.0002 * resolution**2 / self.batch,
            # StyleGAN3 uses neither (REFERENCE.md §4.8).
            "style_mixing_prob": 0.9 if stylegan2 and not small else 0,
            "pl_weight": 2 if stylegan2 and not small else 0,
            "batch_gpu": self.batch // world_size,
            # In 16 steps R1 and R2 grow so large that one update undoes them (docs/LOG.md).
            "d_reg_interval": 4 if self.loss == "rpgan" else 16,
            "glr": 0.002 if stylegan2 else 0.0025,
            "ema_kimg": self.batch * 10 / 32,
            "grid": (min(columns, 32), min(rows, 32)),
        }
        missing = {k: v for k, v in derived.items() if getattr(self, k) is None}
        config = dataclasses.replace(self, **missing)
        if config.gamma_end is None:
            assert config.gamma is not None, "derived above"
            end = config.gamma / 10 if small else config.gamma
            config = dataclasses.replace(config, gamma_end=end or None)
        return config

    def check_split(self, world_size: int) -> None:
        """Raise ValueError unless the batch splits over processes, passes and groups."""
        if self.batch % world_size:
            raise UserError(
                f"batch: got {self.batch}, expected a multiple of the {world_size} processes"
            )
        batch = self.batch // world_size
        size = batch if self.batch_gpu in (None, "auto") else self.batch_gpu
        if not isinstance(size, int) or size < 1 or batch % size:
            raise UserError(
                f"batch_gpu: got {size}, expected 'auto' or a divisor of the {batch} images per "
                "process of `batch`"
            )
        if size % min(self.mbstd_group, size):
            raise UserError(
                f"mbstd_group: got {self.mbstd_group}, expected a divisor of the {size} images "
                "per pass"
            )
        # A pass with fewer images than a group would silently shrink the group.
        if size < batch and size < self.mbstd_group:
            raise UserError(
                f"batch_gpu: got {size}, expected at least the {self.mbstd_group} of `mbstd_group`"
            )

    def images_per_pass(self, world_size: int = 1) -> int:
        """Images per forward pass of one process, at the start of a run if `batch_gpu` is auto."""
        size = self.batch_gpu
        return size if isinstance(size, int) else self.batch // world_size

    @property
    def wants_latest(self) -> bool:
        """Whether to resume the newest run with this description if there is one."""
        return self.resume is not None and self.resume.partition(",")[0] == "latest"

    @property
    def start_network(self) -> str | None:
        """The network that a new run starts from; None for random weights."""
        if self.resume is not None and self.wants_latest:
            return self.resume.partition(",")[2] or None
        return self.resume

    def begun_with_network(self) -> TrainConfig:
        """Return a copy for a run that starts from trained weights: no EMA ramp-up."""
        return dataclasses.replace(self, from_network=True, ema_rampup=None)
