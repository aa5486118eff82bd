"""Labels of `dataset.json` and of folders, as people and tools write them."""

import json

import pytest
from dataset_files import fails, index_of, prepare, run, save, zipped

from sg3.data import ImageDataset, open_dataset


def write(folder, labels, **more):
    (folder / "dataset.json").write_text(json.dumps({"labels": labels} | more))


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate(("ants", "cats", "dogs")):
        save(tmp_path / "pets" / name / "a.png", seed=i)
    return tmp_path / "pets"


NAMES = ("ants/a.png", "cats/a.png", "dogs/a.png")


def labelled(values):
    return [[name, value] for name, value in zip(NAMES, values, strict=True)]


def test_names_written_by_windows_keep_their_labels(pets, tmp_path):
    write(pets, [[name.replace("/", "\\"), i] for i, name in enumerate(NAMES)])
    prepare(pets, tmp_path / "o.zip")
    assert [label for _, label in index_of(tmp_path / "o.zip")["labels"]] == [0, 1, 2]
    assert ImageDataset(pets, use_labels=True).labels(range(3)).argmax(1).tolist() == [0, 1, 2]


def test_dataset_json_of_a_zipped_folder(pets, tmp_path):
    write(pets, labelled([2, 1, 0]))
    files = {f"x/{p.relative_to(pets)}": p.read_bytes() for p in pets.rglob("*.*")}
    source = zipped(tmp_path / "pets.zip", files)
    prepare(source, tmp_path / "o.zip")
    assert [label for _, label in index_of(tmp_path / "o.zip")["labels"]] == [2, 1, 0]
    assert ImageDataset(source, use_labels=True).labels(range(3)).argmax(1).tolist() == [2, 1, 0]


def test_labels_that_match_nothing_are_one_line(pets, tmp_path):
    write(pets, [["x/1.jpg", 0], ["x/2.jpg", 1]])
    where = ("--source", pets, "--dest", tmp_path / "o.zip")
    fails("none for these images: its first name is x/1.jpg, the first image ants/a.png", *where)
    assert not (tmp_path / "o.zip").exists()
    with pytest.raises(ValueError, match=r"first name is x/1\.jpg, the first image ants/a\.png"):
        open_dataset(pets, use_labels=True)
    run(*where, "--labels", "none")


def test_labels_of_other_images_are_counted(pets, tmp_path):
    write(pets, [*labelled([0, 1, 2]), ["b.png", 0], ["c.png", 0]])
    notes = []
    prepare(pets, tmp_path / "o.zip", tell=notes.append)
    assert notes == ["2 of 5 labels match no image, first that of b.png"]


def test_classes_are_numbered_by_what_is_kept(pets, tmp_path):
    save(pets / "ants" / "a.png", 4, 4)
    notes = []
    options = {"labels": "folders", "min_size": 8, "tell": notes.append}
    prepare(pets, tmp_path / "o.zip", **options)
    index = index_of(tmp_path / "o.zip")
    assert index["classes"] == ["cats", "dogs"] and [c for _, c in index["labels"]] == [0, 1]
    assert notes == ["no class: ants, of which no image is used"]
    (pets / "ants" / "a.png").write_bytes(b"no image")
    data = open_dataset(pets, use_labels=True)
    assert data.class_names == ["cats", "dogs"] and data.labels(range(2)).argmax(1).tolist() == [
        0,
        1,
    ]
    assert data.notes == notes and data.describe() == "2 images of 2 classes"


def test_gaps_in_class_numbers_are_said(pets, tmp_path):
    write(pets, labelled([1, 5, 9]))
    notes = []
    prepare(pets, tmp_path / "o.zip", tell=notes.append)
    expected = "7 of 10 classes have no image and cannot be trained: 0, 2, 3, 4, 6, 7, 8"
    assert notes == [expected] and open_dataset(pets, use_labels=True).notes == [expected]


@pytest.mark.parametrize(
    "values, classes, dim",
    [
        (["dog", "cat", "dog"], [1, 0, 1], 2),
        ([0.0, 1.0, 2.0], [0, 1, 2], 3),
        ([0, 1.0, 1], [0, 1, 1], 2),
        ([True, False, True], [1, 0, 1], 2),
    ],
)
def test_names_and_whole_floats_are_classes(pets, tmp_path, values, classes, dim):
    write(pets, labelled(values))
    prepare(pets, tmp_path / "o.zip")
    for path in (pets, tmp_path / "o.zip"):
        data = open_dataset(path, use_labels=True)
        assert data.label_dim == dim and data.label_kind == "classes"
        assert data.labels(range(3)).argmax(1).tolist() == classes
        assert data.class_names == (["cat", "dog"] if "cat" in values else None)


def test_class_names_keep_the_order_of_the_file(pets):
    write(pets, labelled(["dog", "cat", "dog"]), classes=["dog", "cat"])
    data = open_dataset(pets, use_labels=True)
    assert data.class_names == ["dog", "cat"] and data.labels(range(3)).argmax(1).tolist() == [
        0,
        1,
        0,
    ]


ODD = [[0, "cat", 1], [0.5, 1, 2], [[0, 1], [1], [2]], [[], [], []], [[1e39, 1]] * 3]


@pytest.mark.parametrize("values", ODD)
def test_both_commands_refuse_labels_of_several_kinds(pets, tmp_path, values):
    write(pets, labelled(values))
    fails("has labels of several kinds", "--source", pets, "--dest", tmp_path / "o")
    with pytest.raises(ValueError, match="of several kinds"):
        open_dataset(pets, use_labels=True)


def test_vectors_and_unused_labels_are_described(pets):
    write(pets, labelled([[0.5, 1], [2, 3], [4, 5]]))
    data = open_dataset(pets, use_labels=True)
    assert data.label_kind == "vectors" and data.describe() == "3 images with labels of 2 numbers"
    assert data.unused_labels is None
    assert open_dataset(pets).unused_labels == ("vectors", 2)
    (pets / "dataset.json").unlink()
    assert open_dataset(pets).unused_labels == ("classes", 3)
    for i, name in enumerate(("ants", "cats", "dogs")):
        (pets / name).rename(pets / f"{i:05d}")
    assert open_dataset(pets).unused_labels is None  # folders of a thousand images each
