"""Transfer from another network: what is copied, listed, and refused."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import TINY_SG3, noise_images

import sg3
from sg3.networks import build_network
from sg3.training.config import TrainConfig
from sg3.training.dry_run import describe
from sg3.training.loop import Run, train
from sg3.training.transfer import FADED, fading_line, pair_layers, start_from, transfer

SMALL = dict(
    batch=4, aug="noaug", workers=0, mbstd_group=2, grid=(3, 2), tick=0.008, snap=1, threads=1,
    device="cpu", kimg=0.004,
)  # fmt: skip


def generator(resolution=16, kind="stylegan3", c_dim=0, seed=0, **kwargs):
    torch.manual_seed(seed)
    common = dict(
        z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=resolution, img_channels=3,
        channel_base=64, channel_max=8,
    )  # fmt: skip
    if kind == "stylegan3":
        common |= {"num_layers": 6, "margin_size": 4}
    return build_network(kind, {**common, **kwargs})


def discriminator(resolution=16, c_dim=0, seed=0, **kwargs):
    torch.manual_seed(seed)
    common = dict(
        c_dim=c_dim, img_resolution=resolution, img_channels=3, channel_base=64, channel_max=8
    )
    kwargs = common | kwargs
    return build_network("discriminator", kwargs)


def networks(**kwargs):
    G, D = generator(**kwargs), discriminator(kwargs.get("resolution", 16))
    return sg3.Networks(G_ema=G, G=generator(seed=1, **kwargs), D=D, meta={})


def test_equal_networks_copy_everything():
    source = networks()
    G, D, G_ema = generator(seed=5), discriminator(seed=5), generator(seed=6)
    reports = start_from(source, G, D, G_ema)
    assert not any(report.misfits for report in reports)
    for own, given in ((G, source.G), (D, source.D), (G_ema, source.G_ema)):
        for name, tensor in given.state_dict().items():
            assert torch.equal(own.state_dict()[name], tensor), name


def test_a_file_with_g_ema_alone():
    source = sg3.Networks(G_ema=generator(), meta={})
    G, D, G_ema = generator(seed=5), discriminator(seed=5), generator(seed=6)
    before = {n: t.clone() for n, t in D.state_dict().items()}
    reports = {report.part: report for report in start_from(source, G, D, G_ema)}
    assert torch.equal(G.synthesis.L0_24_8.weight, source.G_ema.synthesis.L0_24_8.weight)
    assert reports["G"].lines() == ["the network has no G: its G_ema is used"]
    assert reports["D"].num_fitting == 0 and len(reports["D"].misfits) > 10
    assert all(torch.equal(before[n], t) for n, t in D.state_dict().items())


def test_misfits_are_listed_with_both_shapes():
    """With labels the first mapping layers differ; the rest is copied."""
    report = transfer("G", generator(c_dim=3), generator())
    lines = report.lines()
    assert "G.mapping.fc0.weight: here [8, 16], there [8, 8]" in lines
    assert "G.mapping.embed.weight: here [8, 3], there missing" in lines
    assert report.num_fitting > 30


def test_a_missing_network_is_one_line():
    report = transfer("D", discriminator(), None)
    assert report.lines() == ["the network has no D: it starts from random weights"]
    assert report.summary().startswith("D 0 of ")


def test_a_missing_block_is_one_line():
    """Of D at 32², block b32 and what reads RGB images are not in a D at 16²."""
    lines = transfer("D", discriminator(32), discriminator(16)).lines()
    block = [name for name in discriminator(32).state_dict() if name.startswith("b32.")]
    kept = [name for name in block if not name.endswith("filter")]
    text = f"D.b32: missing there, its {len(kept)} tensors start from random weights"
    assert len(kept) > 5 and lines == [text]


def test_the_line_about_the_old_weights_in_the_average():
    """After log2(10) = 3.32 half-lives a tenth is left: 33.2 kimg at 10 kimg."""
    line = fading_line(10)
    assert "half-life is 10 kimg, after 33.2 kimg 10% of the old" in line and "`ema_kimg`" in line
    assert math.isclose(0.5 ** (33.2 / 10), FADED, rel_tol=0.01)


def test_another_resolution_pairs_layers_by_cutoff():
    small, large = generator(16), generator(32, seed=3)
    pairs = pair_layers(large.synthesis, small.synthesis)
    cutoff = {
        net: {plan.name: plan.target.cutoff for plan in net.synthesis.plans}
        for net in (small, large)
    }
    for own, other in pairs[:-1]:
        ratio = cutoff[large][own] / cutoff[small][other]
        assert 2**-0.5 <= ratio <= 2**0.5
    assert pairs[0][0].startswith("L0") and pairs[0][1].startswith("L0")
    assert pairs[-1] == ("L6_32_3", "L6_16_3")
    order = [int(other[1:].split("_")[0]) for _, other in pairs]
    assert order == sorted(set(order))
    report = transfer("G", large, small)
    own, other = pairs[1]
    weight = getattr(small.synthesis, other).weight
    assert torch.equal(getattr(large.synthesis, own).weight, weight)
    assert f"G.{own} initialized from {other}" in report.lines()
    # Filters of the schedule are those of the new network.
    fresh = generator(32, seed=4)
    assert torch.equal(
        getattr(large.synthesis, own).up_filter, getattr(fresh.synthesis, own).up_filter
    )
    image = large(torch.randn(1, 8))
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()


def test_discriminators_of_two_resolutions_have_coarse_blocks_in_common():
    small, large = discriminator(16), discriminator(32, seed=3)
    transfer("D", large, small)
    assert torch.equal(large.b8.conv0.weight, small.b8.conv0.weight)
    assert torch.equal(large.b4.out.weight, small.b4.out.weight)


def test_what_does_not_fit_is_refused():
    source = sg3.Networks(G_ema=generator(channel_max=4), meta={})
    with pytest.raises(ValueError, match=r"the network does not fit, G \d+ of \d+ tensors agree"):
        start_from(source, generator(), discriminator(), generator())
    with pytest.raises(ValueError, match="the network is a stylegan2, the run a stylegan3"):
        source = sg3.Networks(G_ema=generator(kind="stylegan2"), meta={})
        start_from(source, generator(), discriminator(), generator())


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(8):
        Image.fromarray(random.randint(0, 255, [16, 16, 3], np.uint8)).save(folder / f"{i}.png")
    return str(folder)


def test_a_run_has_the_sizes_of_its_start_network(data, tmp_path):
    path = tmp_path / "start.safetensors"
    mapping = {"num_layers": 3, "layer_features": 24}
    sg3.save(networks(mapping_kwargs=mapping), path)
    config = TrainConfig(outdir=str(tmp_path / "runs"), data=data, resume=str(path), **SMALL)
    step = list(train(config))[-1]
    kwargs = sg3.load(str(step.folder)).G_ema.init_kwargs
    assert kwargs["z_dim"] == 8 and kwargs["mapping_kwargs"] == mapping
    assert kwargs["num_layers"] == 6


@pytest.mark.parametrize("radial", [False, True])
def test_without_d_its_capacity_is_that_of_the_start_generator(data, tmp_path, radial):
    """R's generator has twice the channels of its discriminator."""
    path = tmp_path / "start.safetensors"
    kind = {"conv_kernel": 1, "use_radial_filters": True} if radial else {}
    sg3.save(sg3.Networks(G_ema=generator(**kind)), path)
    options = {**SMALL, "cfg": "stylegan3-r" if radial else "stylegan3-t"}
    config = TrainConfig(outdir=str(tmp_path / "runs"), data=data, resume=str(path), **options)
    factor = 2 if radial else 1
    planned = describe(config)["D"]
    assert (planned["channel_base"], planned["channel_max"]) == (64 // factor, 8 // factor)
    steps = list(train(config))
    assert sg3.load(str(steps[-1].folder)).D.init_kwargs == planned
    notes = [note for step in steps for note in step.notes]
    assert "the network has no D: it starts from random weights" in notes
    assert sum("resembles the old one" in note for note in notes) == 1
    assert not [note for note in notes if note.startswith("D.")]
    wider = dataclasses.replace(config, dcbase=128, dcmax=16)
    assert describe(wider)["D"]["channel_base"] == 128


def test_a_frozen_mapping_stays(data, tmp_path):
    path = tmp_path / "start.safetensors"
    source = networks()
    sg3.save(source, path)
    config = TrainConfig(
        outdir=str(tmp_path / "runs"), data=data, resume=str(path), freeze_mapping=True, **SMALL
    )
    nets = sg3.load(str(list(train(config))[-1].folder))
    assert torch.equal(nets.G.mapping.fc0.weight, source.G.mapping.fc0.weight)
    assert not torch.equal(nets.G.synthesis.input.weight, source.G.synthesis.input.weight)


def test_wrong_family_is_one_line(data, tmp_path):
    path = tmp_path / "start.safetensors"
    sg3.save(networks(conv_kernel=1, use_radial_filters=True), path)
    config = TrainConfig(outdir=str(tmp_path / "runs"), data=data, resume=str(path), **SMALL)
    with pytest.raises(
        ValueError, match=r"^resume: the network is a stylegan3-r; set `cfg` to stylegan3-r$"
    ):
        list(train(config))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
@pytest.mark.parametrize("here, there", [(3, 1), (1, 3)])
@torch.no_grad()
def test_a_gray_network_continues_in_color_and_back(kind, here, there):
    own = dict(kind=kind, img_channels=here, seed=5)
    given = dict(kind=kind, img_channels=there, seed=1)
    G, G_ema, D = generator(**own), generator(**own), discriminator(img_channels=here, seed=5)
    source = sg3.Networks(
        G_ema=generator(**given), G=generator(**given), D=discriminator(img_channels=there), meta={}
    )
    reports = start_from(source, G, D, G_ema)
    assert not any(report.misfits for report in reports)
    assert all(f"{here} color channels here, {there} there" in r.lines()[0] for r in reports)
    z, c = torch.randn(3, 8), torch.zeros(3, 0)
    images = {n: g.eval()(z, c, noise_mode="const") for n, g in ((here, G), (there, source.G))}
    assert torch.allclose(images[1], images[3].mean(1, keepdim=True), atol=1e-5)
    scores = {here: D(images[1].expand(-1, here, -1, -1), c)}
    scores[there] = source.D(images[1].expand(-1, there, -1, -1), c)
    assert torch.allclose(scores[1], scores[3], atol=1e-5)


def test_d_learns_first(tmp_path):
    """G stays as it was for `d_first_kimg`; then its learning rate rises from 0."""
    images = noise_images(tmp_path)
    config = TrainConfig(
        data=images, outdir=str(tmp_path / "runs"), cfg="stylegan3-t", kimg=0.024,
        d_first_kimg=0.008, glr_warmup_kimg=0.008, **TINY_SG3,
    )  # fmt: skip
    run = Run(config)
    trainer, rates, changed = run.trainer, [], []
    first = [copy.deepcopy(network.state_dict()) for network in (trainer.G, trainer.D)]
    names = [list(dict(network.named_parameters())) for network in (trainer.G, trainer.D)]
    try:
        while not run.done:
            run.step()
            rates.append(trainer.optimizers()["G"].param_groups[0]["lr"])
            now = (trainer.G.state_dict(), trainer.D.state_dict())
            changed.append(
                [
                    any(not torch.equal(a[name], b[name]) for name in parameters)
                    for a, b, parameters in zip(first, now, names, strict=True)
                ]
            )
        full = trainer._g_lr
    finally:
        run.close()
    of_G, of_D = zip(*changed, strict=True)
    assert of_D == (True,) * 6
    # The learning rate is 0 at the first step that trains G.
    assert of_G == (False,) * 3 + (True,) * 3
    assert rates == pytest.approx([0, 0, 0, full / 2, full, full])
