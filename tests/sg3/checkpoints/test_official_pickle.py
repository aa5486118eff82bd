"""Official pickles: all golden files load without running code and give the golden images."""

import numpy as np
import pytest
import repository
import torch

import sg3
from sg3.checkpoints import official_pickle
from sg3.checkpoints.inert import find_official
from sg3.checkpoints.pickle_machine import PickleMachine
from sg3.errors import UserError

GOLDEN = repository.GOLDEN
KINDS = {
    "sg3t-32": "stylegan3",
    "sg3r-32": "stylegan3",
    "sg3t-32-cond": "stylegan3",
    "sg2-32": "stylegan2",
    "sg2ada-32": "stylegan2",
}


def arrays(name):
    return {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.io.npz").items()}


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def records(name):
    data = memoryview((GOLDEN / f"official-{name}.pkl").read_bytes())
    return PickleMachine(data, 0, find_official).run()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_generator_reproduces_the_reference(name):
    nets, io = sg3.load(GOLDEN / f"official-{name}.pkl"), arrays(name)
    G = nets.G_ema
    assert G.kind == KINDS[name] and not G.training
    assert not any(p.requires_grad for p in G.parameters())
    c = io["c"] if G.c_dim else None
    assert relative_error(G.mapping(io["z"], c), io["ws"]) < 1e-5
    for key, noise in (("img", "const"), ("img_const", "const"), ("img_none", "none")):
        if key in io:
            assert relative_error(G(io["z"], c, noise_mode=noise), io[key]) < 1e-4
    if "ws_psi05" in io:
        assert relative_error(G.mapping(io["z"], c, truncation_psi=0.5), io["ws_psi05"]) < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_discriminator_reproduces_the_reference(name):
    D = sg3.load(GOLDEN / f"official-{name}.pkl").D
    if name == "sg2ada-32":
        io = arrays(name)
        img, c = io["disc_img"], io["disc_c"]
    else:
        io = arrays("disc-32-cond" if D.c_dim else "disc-32")
        img, c = io["img"], io["c"]
    assert relative_error(D(img, c if D.c_dim else None), io["logits"]) < 1e-4


def forget(record, name):
    """Remove an attribute of all layers, which would tell what the arguments do not."""
    record.state.pop(name, None)
    for child in record.children.values():
        forget(child, name)


def test_arguments_of_both_eras():
    newer = sg3.load(GOLDEN / "official-sg2-32.pkl")
    assert newer.G_ema.init_kwargs["mapping_kwargs"] == {"num_layers": 8}
    assert "conv_clamp" not in newer.D.init_kwargs  # the default, 256
    older = records("sg2ada-32")
    del older["G_ema"].state["_init_kwargs"]["synthesis_kwargs"]["conv_clamp"]
    del older["D"].state["_init_kwargs"]["num_fp16_res"]
    forget(older["G_ema"].children["synthesis"], "conv_clamp")
    forget(older["D"], "use_fp16")
    nets = official_pickle.rebuild(older, 2**24)
    assert nets.G_ema.init_kwargs["conv_clamp"] is None
    assert nets.G_ema.init_kwargs["channel_base"] == 256
    assert nets.G_ema.mapping.w_avg_beta == 0.995
    assert nets.D.init_kwargs["num_fp16_res"] == 0


def test_augment_pipe_keeps_its_strength_and_arguments():
    pipe = sg3.load(GOLDEN / "official-sg3t-32.pkl").augment_pipe
    assert pipe.kind == "augment" and pipe.init_kwargs["xflip"] == 1
    assert {"p", "Hz_geom", "Hz_fbank"} <= set(pipe.state_dict())


def test_training_set_arguments_are_kept_as_plain_data():
    meta = sg3.load(GOLDEN / "official-sg3t-32-cond.pkl").meta
    assert meta["training_set_kwargs"]["resolution"] == 32
    assert meta["format"] == "official pickle" and len(meta["sha256"]) == 64


def test_only_g_ema():
    content = records("sg3t-32")
    nets = official_pickle.rebuild({"G_ema": content["G_ema"]}, 2**24)
    assert nets.D is None and nets.G is None and nets.augment_pipe is None
    io = arrays("sg3t-32")
    assert relative_error(nets.G_ema(io["z"]), io["img"]) < 1e-4


def test_forks_may_add_attributes_and_arguments_but_no_tensors():
    content = records("sg3t-32")
    state = content["G_ema"].state
    state["colour_of_the_lab_door"] = "green"
    state["_init_kwargs"]["epochs"] = 7
    nets = official_pickle.rebuild(content, 2**24)
    assert "epochs" not in nets.G_ema.init_kwargs
    mapping = content["G_ema"].children["mapping"]
    mapping.state["_buffers"]["w_median"] = mapping.state["_buffers"]["w_avg"]
    with pytest.raises(UserError, match=r"unknown tensor 'mapping\.w_median'"):
        official_pickle.rebuild(content, 2**24)
    del mapping.state["_buffers"]["w_median"], mapping.state["_buffers"]["w_avg"]
    with pytest.raises(UserError, match=r"lacks tensor 'mapping\.w_avg'"):
        official_pickle.rebuild(content, 2**24)


def test_positional_constructor_arguments():
    content = records("sg3t-32")
    state = content["G_ema"].state
    kwargs = state["_init_kwargs"]
    order = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    state["_init_args"] = tuple(kwargs.pop(name) for name in order)
    assert official_pickle.rebuild(content, 2**24).G_ema.img_resolution == 32


def test_names_that_older_numpy_wrote(tmp_path):
    data = (GOLDEN / "official-sg3t-32.pkl").read_bytes()
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert len(old) == len(data) - 1
    (tmp_path / "old.pkl").write_bytes(old)
    assert sg3.load(tmp_path / "old.pkl").G_ema.num_ws == 16


def test_loading_leaves_the_random_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sg3.load(GOLDEN / "official-sg3t-32.pkl")
    assert torch.equal(torch.rand(3), expected)
