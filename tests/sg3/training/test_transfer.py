"""Transfer from another network: what is copied, listed, and refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import sg3
from sg3.networks import build_network
from sg3.training.config import TrainConfig
from sg3.training.loop import train
from sg3.training.transfer import pair_layers, start_from, transfer

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


def discriminator(resolution=16, c_dim=0, seed=0):
    torch.manual_seed(seed)
    kwargs = dict(
        c_dim=c_dim, img_resolution=resolution, img_channels=3, channel_base=64, channel_max=8
    )
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
    assert reports["D"].num_fitting == 0 and len(reports["D"].misfits) > 10
    assert all(torch.equal(before[n], t) for n, t in D.state_dict().items())


def test_misfits_are_listed_with_both_shapes():
    """With labels the first mapping layers differ; the rest is copied."""
    report = transfer("G", generator(c_dim=3), generator())
    lines = report.lines()
    assert "G.mapping.fc0.weight: here [8, 16], there [8, 8]" in lines
    assert "G.mapping.embed.weight: here [8, 3], there missing" in lines
    assert report.num_fitting > 30


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
