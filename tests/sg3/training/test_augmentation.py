"""APA and DiffAugment in runs; frozen layers of G; regularization at every step."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.networks import build_network
from sg3.networks.augment import PRESETS
from sg3.networks.diffaugment import DiffAugment
from sg3.networks.layer_units import layer_names, tensors_by_layer
from sg3.training.augmentation import Augmentation, PseudoReals, image_augmentation
from sg3.training.config import TrainConfig
from sg3.training.freezing import trained_parameters
from sg3.training.loop import open_training_data, train
from sg3.training.loss import GANLoss, LossConfig
from sg3.training.plan import Parts
from sg3.training.run_folder import state_paths
from sg3.training.state import newest_state
from sg3.training.trainer import Trainer

SMALL = dict(
    batch=4, aug="noaug", workers=0, z_dim=8, w_dim=8, map_depth=2, cbase=64, cmax=8,
    mbstd_group=2, grid=(3, 2), tick=0.008, snap=1, d_reg_interval=2, threads=1, device="cpu",
    cfg="stylegan2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten dark gray images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for i in range(10):
        (folder / f"{i % 2}").mkdir(exist_ok=True)
        image = Image.fromarray(random.randint(0, 20, [16, 16], np.uint8))
        image.save(folder / f"{i % 2}" / f"{i}.png")
    return str(folder)


def trainer_of(data, loss=GANLoss, **changes):
    config = TrainConfig(outdir="", data=data, **{**SMALL, **changes})
    dataset = open_training_data(config)
    return Trainer(config.resolved(16), dataset, loss=loss)


def run(data, outdir, num_images, **changes):
    config = TrainConfig(
        outdir=str(outdir), data=data, kimg=num_images / 1000, **{**SMALL, **changes}
    )
    return list(train(config))


class Recorder(GANLoss):
    """Keeps the real images of every phase, and what G was asked for outside of phases."""

    seen: list

    def accumulate_gradients(self, phase, real, real_c, *args, **options):
        self.__dict__.setdefault("seen", []).append((phase, real.clone(), real_c.clone()))
        super().accumulate_gradients(phase, real, real_c, *args, **options)


def test_pseudo_reals_by_hand():
    pseudo = PseudoReals()
    images, draws = torch.zeros(4, 1, 2, 2), torch.tensor([0.3, 0.0, 0.29, 0.9])
    asked = []

    def generate(chosen):
        asked.append(chosen.tolist())
        return torch.ones(len(chosen), 1, 2, 2) * (chosen[:, None, None, None] + 1)

    assert pseudo(images, draws, generate) is images and not asked  # p is 0
    pseudo.p.fill_(0.3)
    got = pseudo(images, draws, generate)
    assert asked == [[1, 2]] and got[:, 0, 0, 0].tolist() == [0, 2, 3, 0]
    assert not images.any()  # a copy: the loader's images stay


@pytest.mark.parametrize("p, fraction", [(0.0, 0), (1.0, 1)])
def test_apa_shows_generated_images_with_the_labels_of_real_ones(data, p, fraction):
    trainer = trainer_of(data, Recorder, aug="apa", initial_p=p, cond=True)
    trainer.step()
    names, images, labels = zip(*trainer.loss.seen, strict=True)
    assert names == ("Gmain", "Greg", "Dmain", "Dreg")
    assert all(torch.equal(each, images[0]) for each in images)
    # Real images are darker than −0.8; those of a random G are not.
    bright = (images[0] > -0.8).any(dim=3).any(dim=2).any(dim=1)
    assert float(bright.float().mean()) == fraction
    assert labels[0].sum(dim=1).tolist() == [1, 1, 1, 1]


def test_apa_changes_nothing_while_p_is_0(data):
    """Its draws come from a generator of the trainer's own; latents are drawn later."""
    with_apa = trainer_of(data, Recorder, aug="apa", target=1)
    without = trainer_of(data, Recorder)
    for trainer in (with_apa, without):
        trainer.step()
    assert with_apa.augment_p == 0
    for one, other in zip(with_apa.loss.seen, without.loss.seen, strict=True):
        assert torch.equal(one[1], other[1])


def test_p_of_apa_follows_the_signs(data):
    """Every fourth step p moves by 4·batch/500,000, up where the mean sign exceeds the target."""
    trainer = trainer_of(data, aug="apa", initial_p=0.5, target=1)
    for _ in range(4):
        trainer.step()
    assert float(trainer.augment_p) == pytest.approx(0.5 - 16 / 500e3, abs=1e-7)
    trainer.ada.observe(torch.ones(1000))
    trainer.ada.config = type(trainer.ada.config)(target=0.6)
    trainer.ada.adjust(4, 4)
    assert float(trainer.augment_p) == pytest.approx(0.5, abs=1e-7)


def test_the_tick_shows_p_of_apa(data, tmp_path):
    lines = [step.line for step in run(data, tmp_path, 4, aug="apa", initial_p=0.25)]
    assert lines[-1].endswith("augment 0.250")
    lines = [step.line for step in run(data, tmp_path, 4, aug="diffaug")]
    assert "augment" not in lines[-1]


def test_which_augmentation_a_run_has(data):
    def described(**options):
        config = TrainConfig(outdir="", data=data, **options)
        return image_augmentation(config), Augmentation(config, torch.device("cpu"))

    for aug in ("noaug", "apa"):
        assert described(aug=aug)[0] is None
    for aug in ("ada", "fixed"):
        kwargs, found = described(aug=aug, p=0.4, initial_p=0.1)
        assert kwargs == ("augment", PRESETS["bgc"])
        assert float(found.p) == pytest.approx(0.4 if aug == "fixed" else 0.1)
        assert (found.controller is None) == (aug == "fixed")
    kwargs, found = described(aug="diffaug", diffaug=("cutout",))
    assert kwargs == ("diffaugment", {"policies": ["cutout"]}) and found.p is None
    assert isinstance(found.pipe, DiffAugment) and found.controller is None


@pytest.mark.parametrize("cfg", ["stylegan2", "stylegan3-t"])
def test_frozen_layers_stay_in_g_and_its_average(data, cfg):
    layers = {} if cfg == "stylegan2" else dict(num_layers=4, margin_size=4)
    trainer = trainer_of(data, cfg=cfg, freeze_g=3, **layers)
    before = {k: v.clone() for k, v in trainer.G.state_dict().items()}
    names, by_layer = layer_names(trainer.G), tensors_by_layer(trainer.G)
    frozen = {name for layer in names[:3] for name in by_layer[layer]}
    parameters = dict(trainer.G.named_parameters())
    held = {id(p) for group in trainer.optimizers()["G"].param_groups for p in group["params"]}
    assert held == {id(p) for name, p in parameters.items() if name not in frozen}
    for _ in range(3):
        trainer.step()
    for network in (trainer.G, trainer.G_ema):
        for name, value in network.named_parameters():
            # The strength of an image-independent noise may have no gradient in three steps.
            if name in frozen:
                assert torch.equal(value, before[name]), name
            elif name.endswith("weight"):
                assert not torch.equal(value, before[name]), name
    counted = Parts(trainer.config, (1, 16, 16), 0).num_trained("G")
    assert counted == sum(parameters[name].numel() for name in parameters if name not in frozen)


def test_layers_to_freeze_are_those_of_the_network():
    G = build_network(
        "stylegan2",
        dict(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1, channel_base=32),
    )

    def trained(**options):
        config = TrainConfig(outdir="", data="", **options)
        kept = {id(p) for p in trained_parameters(G, config)}
        return {name for name, p in G.named_parameters() if id(p) in kept}

    everything = {name for name, _ in G.named_parameters()}
    assert trained() == everything
    assert everything - trained(freeze_g=1) == {"synthesis.b4.const"}
    assert trained(freeze_g=5, freeze_mapping=True) == {
        f"synthesis.b8.torgb.{name}" for name in ("weight", "bias", "affine.weight", "affine.bias")
    }
    with pytest.raises(ValueError, match=r"^freeze_g: got 6, expected at most 5: the layers of"):
        trained(freeze_g=6)


def test_path_length_with_a_frozen_mapping_network(data):
    """The gradient by ws exists although no parameter before it is trained."""
    trainer = trainer_of(data, freeze_mapping=True)
    trainer.step()
    assert trainer.loss.pl_mean > 0


def test_regularization_at_every_step_is_one_update(data):
    phases = trainer_of(data, d_reg_interval=1).phases
    assert [p.name for p in phases] == ["Gmain", "Greg", "Dboth"]
    assert phases[-1].optimizer.defaults["lr"] == 0.002  # not scaled by k/(k + 1)
    assert phases[-1].optimizer.defaults["betas"] == (0, 0.99)
    assert [p.name for p in trainer_of(data).phases][2:] == ["Dmain", "Dreg"]
    for loss, interval in (("stylegan2", 16), ("rpgan", 4)):
        config = TrainConfig(outdir="", data=data, loss=loss).resolved(16)
        assert config.d_reg_interval == interval


@pytest.mark.parametrize("phase", ["Gmain", "Dmain", "Dreg"])
def test_signs_of_a_relativistic_loss_do_not_depend_on_the_offset(data, phase):
    """ADA follows them, and an offset of D's scores changes neither loss nor gradient."""
    trainer = trainer_of(data)
    found = []
    for offset in (0.0, 5.0):
        signs = {}
        D = trainer.D
        loss = GANLoss(
            trainer.G,
            lambda x, c, offset=offset, D=D: D(x, c) + offset,
            LossConfig(kind="rpgan"),
            report=lambda name, x, signs=signs: signs.setdefault(name, x),
        )
        torch.manual_seed(0)
        network = trainer.G if phase[0] == "G" else D
        network.requires_grad_(True)
        args = (torch.zeros(4, 1, 16, 16), torch.zeros(4, 0), torch.ones(4, 8), torch.zeros(4, 0))
        loss.accumulate_gradients(phase, *args, gain=1, cur_nimg=0)
        network.requires_grad_(False)
        found.append({name: x.flatten().tolist() for name, x in signs.items() if "signs" in name})
    assert found[0] == found[1] and found[0]
    if phase == "Dmain":
        real, fake = (np.array(found[0][f"Loss/signs/{kind}"]) for kind in ("real", "fake"))
        assert (real == -fake).all()


def test_a_run_from_before_an_option_resumes(data, tmp_path):
    folder = run(data, tmp_path, 8)[-1].folder
    (*_, path) = state_paths(folder)
    state = newest_state(folder)[0]
    for name in ("diffaug", "freeze_g"):
        del state["config"][name]
    torch.save(state, path)
    assert run(data, tmp_path, 12, resume="latest")[-1].folder == folder
    with pytest.raises(ValueError, match=r"^freeze_g: got 1, but the run in .* started with 0;"):
        run(data, folder, 16, freeze_g=1)


def test_options_record(data, tmp_path):
    folder = run(data, tmp_path, 4, aug="diffaug", diffaug=("color",))[-1].folder
    record = json.loads((folder / "config.json").read_text())
    assert record["diffaug"] == ["color"] and record["aug"] == "diffaug"
