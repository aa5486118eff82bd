"""The encoder interface: open_clip models, ensembles, names. No download happens here."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from guidance.encoders import Encoder, EnsembleEncoder, load_encoder, prepare_images
from guidance.encoders.open_clip import OpenClipEncoder, _common_settings, split_spec

TINY = "tiny-test-clip"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A registered tiny architecture and a file of random weights for it."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{TINY}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(TINY, pretrained=None)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pt")
    return folder, model.eval()


class Colour:
    """Mean colour as the embedding; texts name a colour."""

    name, input_size_px, embed_dim = "colour", 16, 4
    mean = std = (0.5, 0.5, 0.5)

    def encode_images(self, img):
        means = img.mean(dim=(2, 3))
        return F.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1), dim=1)

    def encode_texts(self, texts):
        table = {"red": [1.0, -1, -1, 0], "blue": [-1.0, -1, 1, 0]}
        return F.normalize(torch.tensor([table[text] for text in texts]), dim=1)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_open_clip_from_a_local_file(tiny, suffix):
    folder, model = tiny
    encoder = load_encoder(f"{TINY}/{folder}/weights.{suffix}")
    assert isinstance(encoder, Encoder)
    assert (encoder.input_size_px, encoder.embed_dim) == (32, 24)
    assert encoder.name == f"{TINY}/weights.{suffix}"
    assert not any(p.requires_grad for p in encoder.model.parameters())
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (encoder.mean, encoder.std))
        expected = F.normalize(model.encode_image(((image + 1) / 2 - mean) / std), dim=-1)
    torch.testing.assert_close(encoder.encode_images(image), expected, atol=3e-3, rtol=0)
    texts = encoder.encode_texts(["a face", "a red hat"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert (texts[0] - texts[1]).abs().max() > 0.01


@pytest.mark.parametrize("height, width", [(80, 80), (48, 96), (96, 50)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_pixels_agree_with_the_models_own_preprocessing(
    tiny, resize_mode, interpolation, height, width
):
    """48 of open_clip's 196 tags squash (SigLIP, DFN5B, CLIPA), 21 are bilinear."""
    import open_clip

    _, model = tiny
    settings = open_clip.transform.PreprocessCfg(
        **{
            **model.visual.preprocess_cfg,
            "resize_mode": resize_mode,
            "interpolation": interpolation,
        }
    )
    theirs = open_clip.transform.image_transform_v2(settings, is_train=False)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x * 2, y * 2, 120 + 100 * torch.sin(x / 9)], dim=2).to(torch.uint8)
    expected = theirs(Image.fromarray(pixels.numpy()))[None]
    img = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    visual = SimpleNamespace(preprocess_cfg=asdict(settings))
    encoder = OpenClipEncoder(Pixels(visual), lambda texts: torch.zeros(len(texts), 1), "pixels")
    # Theirs rounds to bytes on the way.
    assert (encoder.encode_images(img) - expected).abs().max() < 0.03


class Pixels(torch.nn.Module):
    """A model that returns the pixels that it is given."""

    def __init__(self, visual):
        super().__init__()
        self.visual, self.weight = visual, torch.nn.Parameter(torch.zeros(1))

    def encode_image(self, pixels, normalize):
        return pixels

    def encode_text(self, tokens, normalize):
        return tokens


class Part(torch.nn.Module):
    """A module without behaviour: TorchScript keeps its tensors."""

    def forward(self, x: int) -> int:
        return x


def program_of(state):
    """Return modules whose parameters have the names and values of `state`."""
    root = Part()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Part())
            module = module._modules[part]
        module.register_parameter(last, torch.nn.Parameter(tensor.clone()))
    return root


@pytest.mark.parametrize("damaged", [False, True])
def test_files_of_openai_are_read_without_running_them(tiny, tmp_path, damaged):
    """The package `clip` stores TorchScript programs in half precision, with three sizes."""
    import open_clip

    _, model = tiny
    program = program_of({n: t.half() for n, t in model.state_dict().items()})
    for name in ("input_resolution", "context_length", "vocab_size"):
        program.register_buffer(name, torch.tensor(32))
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(program), path)
    if damaged:
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ValueError, match="does not fit") as error:
            load_encoder(f"{TINY}/{path}")
        assert "\n" not in str(error.value)
        return
    encoder = load_encoder(f"{TINY}/{path}")
    expected = open_clip.create_model(TINY, pretrained=None, force_quick_gelu=True).eval()
    expected.load_state_dict(model.state_dict())
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (encoder.mean, encoder.std))
        wanted = F.normalize(expected.encode_image(((image + 1) / 2 - mean) / std), dim=-1)
    torch.testing.assert_close(encoder.encode_images(image), wanted, atol=3e-3, rtol=0)


def test_gradients_flow_and_reach_pixels_outside_the_range(tiny):
    folder, _ = tiny
    encoder = load_encoder(f"{TINY}/{folder}/weights.safetensors")
    img = (torch.rand(1, 3, 48, 48) * 6 - 3).requires_grad_(True)
    encoder.encode_images(img)[0, 0].backward()
    assert (img.grad != 0).float().mean() > 0.95


def test_wide_images_are_read_in_the_middle():
    img = torch.full([1, 3, 20, 60], -1.0)
    img[..., 20:40] = 1
    out = prepare_images(img, 20, (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(out, torch.ones(1, 3, 20, 20))


@pytest.mark.parametrize(
    ("name", "mean", "quick_gelu"),
    [("ViT-B-16-SigLIP", 0.5, False), ("RN50", 0.48145466, True), (TINY, None, False)],
)
def test_what_a_file_does_not_say_comes_from_published_weights(name, mean, quick_gelu, tiny):
    found = _common_settings(name)
    assert found["force_quick_gelu"] is quick_gelu
    assert (found["force_preprocess_cfg"] or {"mean": [None]})["mean"][0] == mean


def test_a_siglip_file_is_read_with_its_own_normalization(tiny, monkeypatch):
    import open_clip

    folder, _ = tiny
    published = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["a", "b"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: published)
    encoder = load_encoder(f"{TINY}/{folder}/weights.safetensors")
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)


def test_a_missing_tokenizer_package_is_named(tiny, monkeypatch):
    import open_clip

    def absent(name):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(open_clip, "get_tokenizer", absent)
    with pytest.raises(ValueError, match=r"needs the package transformers.*sg3\[siglip\]"):
        load_encoder(f"{TINY}/{tiny[0]}/weights.safetensors")


def test_an_ensemble_averages_cosines():
    a, b = torch.randn(2, 5), torch.randn(2, 5)

    class Fixed(Colour):
        def __init__(self, vector):
            self.vector = F.normalize(vector, dim=1)

        def encode_images(self, img):
            return self.vector[:1]

        def encode_texts(self, texts):
            return self.vector[1:]

    one, two = Fixed(a), Fixed(b)
    both = EnsembleEncoder([one, two], [3, 1])
    image, text = both.encode_images(torch.zeros(1, 3, 8, 8)), both.encode_texts(["x"])
    expected = 0.75 * one.vector[0] @ one.vector[1] + 0.25 * two.vector[0] @ two.vector[1]
    torch.testing.assert_close((image @ text.T)[0, 0], expected)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(1))
    assert isinstance(both, Encoder)
    with pytest.raises(ValueError, match="positive weight"):
        EnsembleEncoder([one, two], [1, 0])


class Counting(Colour):
    """Records the first pixel of every image."""

    def __init__(self):
        self.seen = []

    def encode_images(self, img):
        self.seen += img[:, 0, 0, 0].tolist()
        return super().encode_images(img)


@pytest.mark.parametrize(("shares", "views", "each"), [(True, 6, 3), (True, 2, 2), (False, 6, 6)])
def test_members_split_many_views(shares, views, each):
    members = Counting(), Counting()
    encoder = EnsembleEncoder(members, shares_views=shares)
    pictures = torch.rand(2, views, 3, 8, 8)
    rows = encoder.encode_views(pictures)
    assert rows.shape == (2, each, encoder.embed_dim)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(2, each))
    assert [len(member.seen) for member in members] == [2 * each] * 2
    shown = {x for member in members for x in member.seen}
    assert shown == set(pictures[:, :, 0, 0, 0].flatten().tolist())


def test_only_bundled_ensembles_split_views():
    assert load_encoder("mini").shares_views
    assert not load_encoder("mini-a,mini-b").shares_views


def test_several_encoders_by_name(tiny):
    folder, _ = tiny
    path = f"{TINY}/{folder}/weights.safetensors"
    encoder = load_encoder(f"{path}:2, {TINY}/{folder}/weights.pt")
    assert encoder.embed_dim == 48
    assert encoder.scales == pytest.approx(((2 / 3) ** 0.5, (1 / 3) ** 0.5))


def test_an_encoder_is_returned_as_it_is():
    colour = Colour()
    assert load_encoder(colour) is colour
    with pytest.raises(ValueError, match="expected a name"):
        load_encoder(3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ViT-B-32", ("ViT-B-32", "")),
        ("ViT-B-32/openai", ("ViT-B-32", "openai")),
        ("ViT-B/32", ("ViT-B-32", "")),
        ("ViT-B/32/openai", ("ViT-B-32", "openai")),
        ("ViT-B-16//data/w.pt", ("ViT-B-16", "/data/w.pt")),
        ("ViT-B-16/w.safetensors", ("ViT-B-16", "w.safetensors")),
        ("nonsense/openai", None),
    ],
)
def test_names_of_open_clip(spec, expected):
    assert split_spec(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minii", "nearest: mini"),
        ("vit-b32", "nearest: .*ViT-B-32"),
        ("", "expected a name"),
        ("mini-a,", "expected a name"),
        ("ViT-B-32/nonsense", "no weights 'nonsense', expected one of openai"),
        ("ViT-B-32/missing.safetensors", "no file missing.safetensors"),
    ],
)
def test_unknown_names_are_refused_in_one_line(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(spec)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tiny, tmp_path):
    save_file({"nothing": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_encoder(f"{TINY}/{tmp_path}/other.safetensors")
    assert "\n" not in str(caught.value)
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="does not fit"):
        load_encoder(f"{TINY}/{tmp_path}/noise.pt")


def test_a_checkpoint_that_carries_code_is_not_run(tiny, tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="does not fit"):
        load_encoder(f"{TINY}/{tmp_path}/bomb.pt")
    assert not marker.exists()


def test_the_message_offline_names_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"download ViT-B-32/openai.*use mini") as caught:
        load_encoder("ViT-B-32/openai")
    assert "\n" not in str(caught.value)


def test_a_mini_encoder_from_a_file(tmp_path):
    from guidance.encoders.mini import MiniConfig, MiniEncoder

    torch.manual_seed(0)
    MiniEncoder(MiniConfig(vocabulary=("red", "hat"))).eval().save(tmp_path / "own.safetensors")
    encoder = load_encoder(str(tmp_path / "own.safetensors"))
    assert isinstance(encoder, Encoder)
    assert encoder.encode_images(torch.zeros(2, 3, 40, 40)).shape == (2, encoder.embed_dim)
    assert encoder.unknown_words("a red hat") == ["a"]
    both = EnsembleEncoder([encoder, Colour()])
    assert both.unknown_words("a red hat") == []
    assert EnsembleEncoder([encoder, encoder]).unknown_words("a red hat") == ["a"]
