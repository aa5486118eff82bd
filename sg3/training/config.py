"""What a training run is told: one frozen record, with the official presets (FACTS 4.8)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
AUGMENTATIONS = ("noaug",)


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run. None means: derived from the others by `resolved`.

    Lengths are counted in thousands of real images shown (kimg).
    """

    outdir: str
    data: str
    cfg: str = "stylegan3-t"
    batch: int = 32
    gamma: float | None = None  # weight of R1; 0.0002·resolution²/batch if left out
    batch_gpu: int | None = None  # images per pass; larger batches accumulate gradients
    cond: bool = False
    mirror: bool = False
    max_images: int | None = None
    cache: str = "auto"
    aug: str = "noaug"
    resume: str | None = None  # 'latest' continues a run; a network file starts from its weights
    from_network: bool = False  # a run's own record: it began with a network's weights
    freezed: int = 0
    cbase: int = 32768
    cmax: int = 512
    dcbase: int | None = None  # of the discriminator; cbase and cmax if left out
    dcmax: int | None = None
    z_dim: int = 512
    w_dim: int = 512
    num_layers: int | None = None  # of StyleGAN3's synthesis
    margin_size: int | None = None
    map_depth: int | None = None
    glr: float | None = None
    dlr: float = 0.002
    glr_warmup_kimg: float = 0  # G's rate rises from 0: for a trained G that meets a random D
    mbstd_group: int = 4
    d_reg_interval: int = 16
    loss: str = "stylegan2"
    ema_kimg: float | None = None  # half-life of the averaged generator
    ema_rampup: float | None = 0.05
    kimg: float = 25000
    tick: float = 4
    snap: int = 50
    grid: tuple[int, int] | None = None  # columns, rows of the picture grids
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    fp32: bool = False
    desc: str | None = None

    def __post_init__(self):
        for name, allowed in (("cfg", CONFIGS), ("aug", AUGMENTATIONS), ("loss", ("stylegan2",))):
            value = getattr(self, name)
            if value not in allowed:
                hint = "; ada and fixed come with a later version" if name == "aug" else ""
                raise ValueError(f"--{name}: got {value!r}, expected {' or '.join(allowed)}{hint}")
        for name in ("batch", "snap", "d_reg_interval", "mbstd_group", "cbase", "cmax"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: got {getattr(self, name)}, expected at least 1")
        for name in ("kimg", "tick"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name}: got {getattr(self, name)}, expected a positive number")
        if self.gamma is not None and not self.gamma >= 0:
            raise ValueError(f"--gamma: got {self.gamma}, expected a number of at least 0")
        if self.cfg == "stylegan2" and (self.num_layers or self.margin_size) is not None:
            raise ValueError("--num-layers, --margin-size: only StyleGAN3 has them")
        self._check_batches()

    def _check_batches(self) -> None:
        pass_size = self.batch_gpu or self.batch
        if self.batch % pass_size:
            raise ValueError(
                f"--batch-gpu: got {pass_size}, expected a divisor of --batch {self.batch}"
            )
        if pass_size % min(self.mbstd_group, pass_size):
            raise ValueError(
                f"--mbstd-group: got {self.mbstd_group}, expected a divisor of the "
                f"{pass_size} images per pass"
            )
        if self.batch_gpu is not None and self.batch_gpu < self.mbstd_group:
            raise ValueError(
                f"--batch-gpu: got {self.batch_gpu}, expected at least --mbstd-group "
                f"{self.mbstd_group}"
            )

    def resolved(self, resolution: int) -> TrainConfig:
        """A copy without None where a rule of FACTS 4.8 gives the value."""
        stylegan2 = self.cfg == "stylegan2"
        derived = {
            "gamma": 0.0002 * resolution**2 / self.batch,
            "batch_gpu": self.batch,
            "dcbase": self.cbase,
            "dcmax": self.cmax,
            "map_depth": 8 if stylegan2 else 2,
            "glr": 0.002 if stylegan2 else 0.0025,
            "ema_kimg": self.batch * 10 / 32,
            "grid": (min(max(7680 // resolution, 7), 32), min(max(4320 // resolution, 4), 32)),
        }
        missing = {k: v for k, v in derived.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing)

    def begun_with_network(self) -> TrainConfig:
        """A copy with what a start from trained weights changes: no EMA ramp-up, no blur."""
        return dataclasses.replace(self, from_network=True, ema_rampup=None)


@dataclass(frozen=True)
class LossConfig:
    """Settings of `sg3.training.loss.StyleGAN2Loss` (FACTS 4.1); blur fades over kimg."""

    r1_gamma: float = 10
    style_mixing_prob: float = 0
    pl_weight: float = 0
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    blur_init_sigma: float = 0
    blur_fade_kimg: float = 0


def loss_config(config: TrainConfig) -> LossConfig:
    """The loss of a resolved `config`."""
    if config.cfg == "stylegan2":
        return LossConfig(r1_gamma=config.gamma, style_mixing_prob=0.9, pl_weight=2)
    if config.cfg == "stylegan3-r" and not config.from_network:
        fade = config.batch * 200 / 32
        return LossConfig(r1_gamma=config.gamma, blur_init_sigma=10, blur_fade_kimg=fade)
    return LossConfig(r1_gamma=config.gamma)


def generator_kwargs(
    config: TrainConfig, resolution: int, channels: int, label_dim: int
) -> tuple[str, dict]:
    """Kind and constructor arguments of the generator of a resolved `config`."""
    stylegan2, radial = config.cfg == "stylegan2", config.cfg == "stylegan3-r"
    factor = 2 if radial else 1  # R has 1×1 kernels and twice the channels
    kwargs = dict(
        z_dim=config.z_dim,
        c_dim=label_dim,
        w_dim=config.w_dim,
        img_resolution=resolution,
        img_channels=channels,
        channel_base=config.cbase * factor,
        channel_max=config.cmax * factor,
        mapping_kwargs={"num_layers": config.map_depth},
    )
    if not stylegan2:
        # A half-life of 20 000 images, whatever the batch.
        kwargs["magnitude_ema_beta"] = 0.5 ** (config.batch / 20e3)
        optional = {"num_layers": config.num_layers, "margin_size": config.margin_size}
        kwargs |= {name: value for name, value in optional.items() if value is not None}
    if radial:
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
    if config.fp32:
        kwargs |= {"num_fp16_res": 0, "conv_clamp": None}
    return ("stylegan2" if stylegan2 else "stylegan3"), kwargs


def discriminator_kwargs(
    config: TrainConfig, resolution: int, channels: int, label_dim: int
) -> dict:
    """Constructor arguments of the discriminator of a resolved `config`."""
    kwargs = dict(
        c_dim=label_dim,
        img_resolution=resolution,
        img_channels=channels,
        channel_base=config.dcbase,
        channel_max=config.dcmax,
        block_kwargs={"freeze_layers": config.freezed},
        epilogue_kwargs={"mbstd_group_size": config.mbstd_group},
    )
    if config.fp32:
        kwargs |= {"num_fp16_res": 0, "conv_clamp": None}
    return kwargs
