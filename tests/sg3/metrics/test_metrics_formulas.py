"""Names of metrics, and their formulas against loops and closed forms."""

import numpy as np
import pytest
import torch

from sg3.metrics import check_names, parse_name
from sg3.metrics.inception_score import inception_score
from sg3.metrics.kid import kernel_distance
from sg3.metrics.precision_recall import precision_recall

# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num", "real_images", "features"),
    [
        ("fid50k_full", 50_000, None, "inception"),
        ("fid2k_full", 2_000, None, "inception"),
        ("fid0.25k", 250, 250, "inception"),
        ("kid50k_full", 50_000, 1_000_000, "inception"),
        ("kid10k", 10_000, 10_000, "inception"),
        ("pr50k3_full", 50_000, 200_000, "vgg16"),
        ("pr5k12", 5_000, 5_000, "vgg16"),
        ("fd2k_full_mini", 2_000, None, "mini"),
        ("pr2k3_clip:ViT-B-32/openai", 2_000, 2_000, "clip:ViT-B-32/openai"),
    ],
)
def test_names_of_distances(name, num, real_images, features):
    metric = parse_name(name)
    assert (metric.num, metric.max_real, metric.features) == (num, real_images, features)
    assert metric.name(features) == name.replace(":", "-").replace("/", "-")


def test_other_names():
    assert parse_name("pr5k12_full").neighbour == 12
    assert [parse_name(f"{n}50k{v}").kind for n, v in (("eqt", "_int"), ("eqt", "_frac"))] == [
        "eqt_int",
        "eqt_frac",
    ]
    for name in ("is50k", "eqr50k", "eqt1.5k_int"):
        assert parse_name(name).name() == name and not parse_name(name).needs_real_images
    assert parse_name("fid2k_full", "mini").name("mini") == "fd2k_full_mini"
    assert parse_name("kid2k_full_mini", "mini-a").features == "mini"  # the name takes precedence


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fdi50k_full", "fid50k_full"),
        ("fid20k_ful", "fid20k_full"),
        ("eqt50k", "eqt50k_int"),
        ("fid2k_full_mimi", "fd2k_full_mini"),
        ("xyz", "known are fd_dinov2, cmmd, ppl2_wend"),
        ("fid0k", "at least 2"),
        ("pr1k0", "at least 2"),
        ("pr0.003k3", "at least 4"),
        ("", "known are"),
    ],
)
def test_bad_names(name, hint):
    with pytest.raises(ValueError, match=hint) as error:
        check_names(["eqr1k", name])
    assert "\n" not in str(error.value)


def test_inception_score_needs_inception():
    with pytest.raises(ValueError, match="Inception"):
        parse_name("is50k", "mini")


# --- formulas ------------------------------------------------------------------------------------


def test_kernel_distance_equals_loops():
    random = np.random.RandomState(0)
    x, y = random.randn(7, 3), random.randn(7, 3) + 0.5

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    own = sum(k(v[i], v[j]) for v in (x, y) for i in range(7) for j in range(7) if i != j)
    cross = sum(k(a, b) for a in x for b in y)
    expected = own / (7 * 6) - 2 * cross / 49
    found = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), num_subsets=2)
    assert found == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """0 on average for equal distributions, with few samples too; more for different ones."""
    random = np.random.RandomState(1)
    for size in (5, 40):
        pairs = torch.from_numpy(random.randn(500, 2, size, 8))
        found = [kernel_distance(x, y, num_subsets=1) for x, y in pairs]
        assert abs(np.mean(found)) < 3 * np.std(found) / 500**0.5
    assert kernel_distance(pairs[0, 0], pairs[0, 1] + 0.5, 20) > 0.1


def brute_force_fraction(manifold, probes, neighbour):
    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    radii = np.sort(distances(manifold, manifold), axis=1)[:, neighbour]
    return (distances(probes, manifold) <= radii).any(axis=1).mean()


@pytest.mark.parametrize("tile", [7, 4096])
def test_precision_recall_equals_brute_force(tile):
    random = np.random.RandomState(2)
    a, b = random.randn(90, 4), random.randn(60, 4) * 0.8 + 0.7
    a, b = (x.astype(np.float16).astype(np.float64) for x in (a, b))
    found = precision_recall(torch.from_numpy(a), torch.from_numpy(b), 3, tile)
    assert found == (brute_force_fraction(a, b, 3), brute_force_fraction(b, a, 3))
    assert 0 < found[1] < found[0] < 1
    assert precision_recall(torch.from_numpy(a), torch.from_numpy(b + 50)) == (0, 0)


def test_inception_score_of_known_classes():
    even = torch.full([40, 8], 1 / 8)
    assert inception_score(even) == (pytest.approx(1), pytest.approx(0))
    assert inception_score(torch.eye(8).repeat(10, 1), 10)[0] == pytest.approx(8)
    with pytest.raises(ValueError, match="at least 10"):
        inception_score(even[:4])


@pytest.mark.parametrize("function", [kernel_distance, precision_recall])
def test_features_that_do_not_fit(function):
    for other in (torch.zeros([9, 5]), torch.zeros([1, 4])):
        with pytest.raises(ValueError, match="features: got shapes"):
            function(torch.zeros([9, 4]), other)
