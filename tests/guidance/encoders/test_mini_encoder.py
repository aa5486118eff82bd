"""The mini encoder: interface, files, training step, and what the bundled weights know."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from guidance.encoders.mini import UNKNOWN, MiniConfig, MiniEncoder, Tokenizer
from recipes.minifaces.encoder.batches import make_batch, to_float
from recipes.minifaces.encoder.losses import EncoderTraining
from recipes.minifaces.encoder.pairs import NAMES, build
from recipes.minifaces.encoder.train import train_encoder
from recipes.minifaces.world.captions import known_words
from sg3.metrics import frechet_distance

FRESH = 9 * 10**8  # identities that no training run drew


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MiniEncoder(
        MiniConfig(("a", "red", "hat"), widths=(8, 8, 16, 16), hidden=32, embed_dim=24)
    ).eval()


def test_tokenizer():
    read = Tokenizer(["a", "red", "hat"], context=4)
    assert read(["A red, hat!", "a zeppelin"]).tolist() == [[2, 3, 4], [2, UNKNOWN, 0]]
    assert read(["red " * 9]).shape == (1, 4)
    assert read([""]).tolist() == [[UNKNOWN]]
    assert read.unknown_words("a red zeppelin") == ["zeppelin"]


def test_embeddings_are_unit_vectors_for_any_image_size(model):
    for size in (64, 32, 100):
        out = model.encode_images(torch.rand(2, 3, size, size + 4) * 2 - 1)
        assert out.shape == (2, 24) and torch.allclose(out.norm(dim=1), torch.ones(2))
    texts = model.encode_texts(["a hat", "a red hat", "what"])
    assert texts.shape == (3, 24) and torch.allclose(texts.norm(dim=1), torch.ones(3))


def test_padding_does_not_matter(model):
    alone = model.encode_texts(["a hat"])
    beside = model.encode_texts(["a hat", "a red hat red hat red hat"])[:1]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_gradient_reaches_the_image(model):
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    (model.encode_images(x) @ model.encode_texts(["red"]).T).sum().backward()
    assert x.grad.abs().max() > 0


def test_wrong_shape(model):
    with pytest.raises(ValueError, match=r"expected \[N, 3, H, W\]"):
        model.encode_images(torch.zeros(1, 1, 64, 64))


def test_round_trip(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path, {"steps": 3})
    back = MiniEncoder.load(path, name="other")
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(back.encode_images(x), model.encode_images(x), atol=5e-3)
    assert back.config == model.config and back.provenance == {"steps": 3} and back.name == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_files_of_another_kind(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="expected 'sg3-mini-encoder'"):
        MiniEncoder.load(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        MiniEncoder.load(tmp_path / "y.safetensors")


@pytest.mark.slow
def test_resumed_training_equals_unbroken(tmp_path):
    data = build(4, 77)
    config = EncoderTraining(seed=3, steps=4, pairs=6, singles=3)

    def weights(checkpoint, stops):
        for stop in stops:
            for step in train_encoder(data, config, checkpoint, every=2):
                if step.index + 1 == stop:
                    break
        return step.model.state_dict()

    whole = weights(tmp_path / "a.pt", [4])
    broken = weights(tmp_path / "b.pt", [2, 4])
    assert all(torch.equal(whole[k], broken[k]) for k in whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini-a", "mini-b", "mini", "mini-smooth"])
def test_bundled_weights_know_the_world(name):
    from guidance.encoders import load_encoder
    from recipes.minifaces.evaluation.encoder import GATES, attribute_accuracies

    data = build(12, FRESH)
    found = attribute_accuracies(
        load_encoder(name),
        data.images.reshape(-1, 64, 64, 3),
        data.labels.reshape(-1, len(NAMES)),
    )
    assert np.mean([found[gate] for gate in GATES]) >= 0.93, found
    assert min(found[gate] for gate in GATES) >= 0.8, found


@pytest.mark.parametrize("name", ["mini-a", "mini-b", "mini-c", "mini-d"])
def test_bundled_files_say_where_they_come_from(name):
    from guidance.encoders.load import ASSETS

    path = ASSETS / f"{name}.safetensors"
    assert path.stat().st_size <= 5 * 2**20
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {"command", "commit", "steps", "seconds"} <= set(json.loads(metadata["provenance"]))
    assert tuple(json.loads(metadata["config"])["vocabulary"]) == tuple(known_words())


@pytest.mark.slow
def test_judge_reads_fresh_renders():
    from recipes.minifaces.judge.model import collect_features, load_judge
    from recipes.minifaces.judge.train import accuracies, draw_many

    pictures, labels = draw_many(200, FRESH)
    judge, x = load_judge(), to_float(pictures)
    found = accuracies(judge, x, labels)
    assert min(found.values()) >= 0.9, found
    features = collect_features(judge, x)
    same = frechet_distance(features[:100], features[100:])
    other = frechet_distance(features[:100], collect_features(judge, -x[100:]))
    assert 0 <= same < other


class Linear(torch.nn.Module):
    """Pictures become their products with `weight`; texts are numbers along the first axis."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def encode_images(self, x):
        return x.flatten(1) @ self.weight

    def encode_texts(self, texts):
        return torch.tensor([[float(text), 0.0] for text in texts])


def test_the_alignment_loss_is_the_angle_between_gradient_and_change():
    from recipes.minifaces.encoder.losses import EncoderTraining, alignment_loss

    data = build(6, FRESH)
    batch = make_batch(data, 0, pairs=30, singles=2)
    pairs = len(batch.alpha)
    kinds = [batch.targets[name].argmax(1) for name in ("domain", "style")]
    other = (kinds[0][:pairs] != kinds[0][pairs : 2 * pairs]) | (
        kinds[1][:pairs] != kinds[1][pairs : 2 * pairs]
    )
    chosen = torch.nonzero((batch.alpha == 1) & other)[:1, 0]
    one = dataclasses.replace(
        batch,
        images=batch.images[[int(chosen), pairs + int(chosen)]],
        targets={n: t[[int(chosen), pairs + int(chosen)]] for n, t in batch.targets.items()},
        alpha=torch.ones(1),
        delta_texts=(["1"], ["3"]),
    )
    change = (one.images[1] - one.images[0]).flatten()
    rng = np.random.default_rng(0)
    for column, wanted in ((change, 0.0), (-change, 2.0)):
        model = Linear(torch.stack([column, torch.zeros_like(column)], dim=1))
        loss = alignment_loss(model, one, EncoderTraining(), rng)
        assert abs(loss.item() - wanted) < 1e-5
    model = Linear(torch.randn([len(change), 2], generator=torch.Generator().manual_seed(0)))
    alignment_loss(model, one, EncoderTraining(), rng).backward()
    assert (model.weight.grad[:, 0] @ change) < 0  # downhill is towards the change
