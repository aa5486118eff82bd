"""Networks in the layouts of other code bases, compared with golden numbers and peers' files."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sg3
from sg3.checkpoints.networks import Networks, assemble
from sg3.errors import UserError
from sg3.export.official import official_content
from sg3.export.rosinality import rosinality_content
from sg3.networks.build import build_network

KINDS = {"training.networks_stylegan3.Generator": "stylegan3",
         "training.networks_stylegan2.Generator": "stylegan2",
         "training.networks_stylegan2.Discriminator": "discriminator"}  # fmt: skip


def golden(root, name):
    folder = root / "tests/golden"
    kwargs = json.loads((folder / f"{name}.json").read_text())
    return kwargs, load_file(folder / f"{name}.safetensors"), np.load(folder / f"{name}.io.npz")


def rebuilt(part):
    """The network that a class with the official arguments makes of a part."""
    return assemble("G", KINDS[part["class"]], part["kwargs"], part["state_dict"])


@pytest.mark.parametrize("name", ["sg3t-32", "sg3t-32-cond", "sg3r-32", "sg2-32"])
def test_official_layout_has_the_names_and_values_of_the_official_code(root, name):
    _, state, numbers = golden(root, name)
    content, notes = official_content(sg3.load(root / f"tests/golden/official-{name}.pkl"))
    assert set(content) == {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"}
    part = content["G_ema"]
    assert list(part["state_dict"]) == list(state) or set(part["state_dict"]) == set(state)
    assert all(torch.equal(part["state_dict"][k], state[k]) for k in state)
    assert not notes
    G = rebuilt(part)
    ws = torch.from_numpy(numbers["ws"])
    expected = numbers["img"] if "img" in numbers else numbers["img_const"]
    assert np.abs(G.synthesis(ws, noise_mode="const").numpy() - expected).max() < 1e-4


SCRIPT = re.compile(r"```python\n(# to_official\.py.*?)```", re.DOTALL)
STAND_INS = {
    "networks_stylegan3.py": "from sg3.networks.stylegan3 import Generator",
    "networks_stylegan2.py": "from sg3.networks.stylegan2 import Generator\n"
    "from sg3.networks.discriminator import Discriminator",
    "augment.py": "from sg3.networks.augment import AugmentPipe",
}


@pytest.mark.parametrize("name", ["official-sg3t-32", "mini-faces"])
def test_the_documented_script_makes_a_pickle_of_all_three_networks(root, tmp_path, name):
    """With stand-ins for the official classes: same modules, names and arguments."""
    folder = tmp_path / "training"
    folder.mkdir()
    for file, text in STAND_INS.items():
        (folder / file).write_text(text)
    script = SCRIPT.search((root / "docs/EXPORT.md").read_text(encoding="utf-8"))
    (tmp_path / "to_official.py").write_text(script[1])
    assert len(script[1].splitlines()) <= 20
    source = root / f"tests/golden/{name}.pkl" if "official" in name else name
    nets = sg3.load(source)
    content, _ = official_content(nets)
    torch.save(content, tmp_path / "net.pt")
    command = [sys.executable, "to_official.py", "net.pt", "net.pkl"]
    environment = {"PYTHONPATH": f"{root}:{tmp_path}", "PATH": ""}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    with open(tmp_path / "net.pkl", "rb") as file:
        made = pickle.load(file)
    # What the official reader asserts.
    assert all(isinstance(made[part], torch.nn.Module) for part in ("G", "D", "G_ema"))
    assert made["training_set_kwargs"] is None or isinstance(made["training_set_kwargs"], dict)
    assert made["augment_pipe"] is None or isinstance(made["augment_pipe"], torch.nn.Module)
    z = torch.randn([2, nets.G_ema.z_dim], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pair = [G(z, truncation_psi=0.7) for G in (made["G_ema"], nets.G_ema)]
        made["D"](pair[0], None)
    assert (pair[0] - pair[1]).abs().max() < 1e-5


@pytest.mark.parametrize("c_dim", [0, 5])
@pytest.mark.parametrize("hidden", [20, 96])
def test_mappings_of_other_widths_become_official_ones(c_dim, hidden):
    torch.manual_seed(0)
    mapping = {"num_layers": 3, "layer_features": hidden}
    if c_dim:
        mapping["embed_features"] = 24
    G = build_network("stylegan3", {
        "z_dim": 16, "c_dim": c_dim, "w_dim": 32, "img_resolution": 16, "img_channels": 3,
        "channel_base": 256, "channel_max": 16, "num_layers": 4, "mapping_kwargs": mapping,
    })  # fmt: skip
    for parameter in G.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    G.mapping.w_avg.normal_()
    content, notes = official_content(Networks(G_ema=G))
    part = content["G_ema"]
    assert part["kwargs"]["w_dim"] == max(32, hidden)
    assert part["kwargs"]["mapping_kwargs"] == {"num_layers": 3}
    assert ("w_dim 32 became 96" in notes[0]) == (hidden == 96)
    z, c = torch.randn([3, 16]), torch.eye(5)[:3] if c_dim else None
    with torch.no_grad():
        expected, found = (N(z, c, truncation_psi=0.6) for N in (G, rebuilt(part)))
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


def test_official_layout_refuses_by_name_what_its_classes_lack():
    kwargs = {"z_dim": 16, "c_dim": 0, "w_dim": 16, "img_channels": 3, "channel_max": 8}
    G = build_network("stylegan2", {**kwargs, "img_resolution": [16, 8]})
    with pytest.raises(UserError, match=r"G_ema: img_resolution is \[16, 8\], the official code"):
        official_content(Networks(G_ema=G))
    mapping = {"activation": "relu"}
    G = build_network(
        "stylegan3", {**kwargs, "img_resolution": 16, "num_layers": 4, "mapping_kwargs": mapping}
    )
    with pytest.raises(UserError, match="G_ema: made with activation, which the official class"):
        official_content(Networks(G_ema=G))


def test_rosinality_layout_equals_the_file_that_its_own_tool_wrote(root):
    """`rosi-convert_weight.pt` was written by its converter from `rosi-convert_weight.npz`."""
    folder = root / "tests/peerfiles"
    peer = torch.load(folder / "rosi-convert_weight.pt", weights_only=True)
    numbers = np.load(folder / "rosi-convert_weight.pt.io.npz")
    G = rosinality_generator(peer)
    ws, image = torch.from_numpy(numbers["ws"]), torch.from_numpy(numbers["img"])
    with torch.no_grad():
        assert (G.synthesis(ws, noise_mode="const") - image).abs().max() < 1e-5
    content, notes = rosinality_content(Networks(G_ema=G))
    assert not notes
    assert set(content["g_ema"]) == set(peer["g_ema"])
    for name, tensor in peer["g_ema"].items():
        assert content["g_ema"][name].shape == tensor.shape, name
        assert torch.allclose(content["g_ema"][name], tensor, atol=1e-7), name
    assert torch.equal(content["latent_avg"], peer["latent_avg"])


def rosinality_generator(peer):
    """A StyleGAN2 that holds the values of a peer's file, wherever the export looks for them."""
    kwargs = {"z_dim": 32, "c_dim": 0, "w_dim": 32, "img_resolution": 32, "img_channels": 3,
              "channel_base": 512, "channel_max": 16, "conv_clamp": None}  # fmt: skip
    G = build_network("stylegan2", kwargs).eval().requires_grad_(False)
    state = G.state_dict()
    # Tensors of unique values tell which of ours each of theirs is made of.
    ids = {name: torch.full_like(tensor, i) for i, (name, tensor) in enumerate(state.items())}
    marked = build_network("stylegan2", kwargs).requires_grad_(False)
    marked.load_state_dict(ids)
    content, _ = rosinality_content(Networks(G_ema=marked))
    names = list(state)
    for theirs, tensor in content["g_ema"].items():
        if not theirs.endswith("kernel"):
            ours = names[int(tensor.flatten()[0])]
            state[ours].copy_(peer["g_ema"][theirs].reshape(state[ours].shape))
    G.mapping.w_avg.copy_(peer["latent_avg"])
    return G


def test_rosinality_layout_refuses_by_name_what_it_lacks():
    with pytest.raises(UserError, match="holds StyleGAN2, this is a stylegan3; try official"):
        rosinality_content(sg3.load("mini-faces"))
    with pytest.raises(UserError, match="one width, this network has z_dim 64, w_dim 128"):
        rosinality_content(sg3.load("mini-faces-stylegan2"))
    with pytest.raises(UserError, match="has img_channels 3, this network 1"):
        rosinality_content(sg3.load("fashion-32"))
