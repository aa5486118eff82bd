"""The bundled world: renderer, captions, pairs, dataset."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from guidance.encoders.mini_vocabulary import ATTRIBUTES, CLASSES, DOMAINS, STYLES
from recipes.minifaces.encoder import pairs
from recipes.minifaces.encoder.batches import make_batch
from recipes.minifaces.world import captions
from recipes.minifaces.world.attributes import Attributes, Pose, sample_attributes, visible
from recipes.minifaces.world.dataset import write_dataset
from recipes.minifaces.world.renderer import render, render_seed

BASE = Attributes(gender="man", hat="hat", hair_style="long")


def test_render_is_a_function_of_its_arguments():
    assert (render_seed(5) == render_seed(5)).all()
    assert sample_attributes(5) == sample_attributes(5) != sample_attributes(6)
    assert not (render_seed(5) == render_seed(6)).all()


@pytest.mark.parametrize("size", [16, 64, 100, 256])
@pytest.mark.parametrize("style", STYLES)
def test_any_size_and_style(size, style):
    image = render(BASE, "cat", style, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.std() > 10


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_visible_value_changes_the_image(domain):
    for name in visible(BASE, domain):
        seen = [render(BASE.with_(**{name: value}), domain) for value in ATTRIBUTES[name]]
        for i, one in enumerate(seen):
            for other in seen[:i]:
                moved = np.abs(one.astype(int) - other).max(-1)
                assert (moved > 40).sum() >= 12, (domain, name, ATTRIBUTES[name][i])


def test_features_are_large():
    """The mouth is about 20 units wide, an eye about 11: small networks can learn them."""
    smile = np.abs(render(BASE).astype(int) - render(BASE.with_(mouth="neutral"))).max(-1) > 40
    assert np.ptp(np.flatnonzero(smile.any(0))) >= 17
    iris = np.abs(render(BASE).astype(int) - render(BASE.with_(eye_colour="brown"))).max(-1) > 40
    assert iris[:, :32].any(0).sum() >= 5


def test_hidden_attributes_do_not_change_the_image():
    for domain in DOMAINS:
        for name in set(ATTRIBUTES) - set(visible(BASE, domain)):
            images = [render(BASE.with_(**{name: value}), domain) for value in ATTRIBUTES[name]]
            assert all((images[0] == other).all() for other in images[1:]), (domain, name)


def test_pairs_share_everything_else():
    """Domain and style variants keep background and frame; an attribute change stays local."""
    human, zombie = render(BASE), render(BASE, "zombie")
    assert (human[:, 0] == zombie[:, 0]).all() and (human != zombie).any()
    glasses = np.abs(human.astype(int) - render(BASE.with_(glasses="sunglasses"))).max(-1) > 8
    rows = np.flatnonzero(glasses.any(1))
    assert rows.min() >= 20 and rows.max() <= 44


def test_pose_moves_the_figure_only():
    still, moved = render(BASE, pose=Pose()), render(BASE, pose=Pose(dx=2))
    assert (still != moved).any() and (still[0, 0] == moved[0, 0]).all()
    assert np.abs(still[10:50, 10:50].astype(int) - moved[10:50, 12:52]).mean() < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(domain="horse"), "expected one of human"),
        (dict(style="oil"), "expected one of flat"),
        (dict(size_px=4), "16 to 2048"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        render(BASE, **arguments)


def test_unknown_value():
    with pytest.raises(
        ValueError, match="hat: got 'helmet', expected one of none, hat, cap, crown"
    ):
        Attributes(hat="helmet")


def test_captions_are_truthful_and_in_the_vocabulary():
    vocabulary, rng = set(captions.known_words()), np.random.default_rng(0)
    for seed in range(600):
        domain, style = DOMAINS[seed % 7], STYLES[seed % 5]
        facts = captions.truth(sample_attributes(seed), domain, style)
        mentions = captions.sample_mentions(facts, rng)
        assert captions.holds(mentions, facts) and mentions
        text = captions.caption(mentions, rng)
        assert set(captions.words(text)) <= vocabulary, text
        for other in set(DOMAINS[1:]) - {domain}:
            assert other not in captions.words(text), text
        if "beard" not in mentions:
            assert not {"beard", "bearded", "moustache"} & set(captions.words(text)), text


def test_every_attribute_has_several_distinct_phrasings():
    for name, values in CLASSES.items():
        sets = [set(captions.phrasings(name, value)) for value in values]
        assert all(len(s) >= 3 for s in sets)
        assert all(not a & b for i, a in enumerate(sets) for b in sets[:i])


def test_labels_round_trip():
    facts = captions.truth(sample_attributes(3), "clown", "pixel")
    assert pairs.facts_of(pairs.labels_of(facts)) == facts


@pytest.fixture(scope="module")
def few_pairs():
    return pairs.build(6, 123)


def test_variants_of_one_identity(few_pairs):
    assert few_pairs.images.shape == (6, pairs.VARIANTS, 64, 64, 3)
    domain, style = pairs.NAMES.index("domain"), pairs.NAMES.index("style")
    assert (few_pairs.labels[:, :7, domain] == np.arange(7)).all()
    assert (few_pairs.labels[:, 7:11, style] == np.arange(1, 5)).all()
    assert (few_pairs.labels[:, 14:] != few_pairs.labels[:, :1]).any(-1).all()


def test_batches(few_pairs):
    one, two = (make_batch(few_pairs, 4, pairs=10, singles=5) for _ in range(2))
    assert one.images.shape == (25, 3, 64, 64) and (one.images == two.images).all()
    assert one.captions == two.captions and one.delta_texts == two.delta_texts
    assert all(a != b for a, b in zip(*one.delta_texts, strict=True))
    for target in one.targets.values():
        total = target.sum(1)
        assert (((total - 1).abs() < 1e-5) | (total == 0)).all()
    assert one.agree[:, : len(one.captions)].diagonal().all()
    assert not one.agree[:, len(one.captions) :].diagonal().all()


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_dataset_layout(tmp_path, name):
    write_dataset(tmp_path / name, 3, seed=9)
    files = [
        "00000/img00000000.png",
        "00000/img00000001.png",
        "00000/img00000002.png",
        "dataset.json",
    ]
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert sorted(archive.namelist()) == files
            assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
            archive.extractall(tmp_path / "out")
        root = tmp_path / "out"
    else:
        root = tmp_path / name
    assert json.loads((root / "dataset.json").read_text()) == {"labels": None}
    assert (np.asarray(Image.open(root / files[1])) == render_seed(9 * 10**7 + 1)).all()
    with pytest.raises(ValueError, match="does not exist yet"):
        write_dataset(tmp_path / name, 3)
