"""What is listed in folders and zips, and what is said about the rest."""

import os
import zipfile

import pytest
from dataset_files import index_of, pixels_of, prepare, run, save, zipped

from sg3.data import ImageDataset
from sg3.data.labels import match_names
from sg3.data.listing import canonical, is_hidden, list_folder, top_folder
from sg3.data.source import ImageSource
from sg3.data.tar_stream import _tars, is_shards

LEFT_BEHIND = (
    "__MACOSX/cats/._a.png", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png",
    ".Trash-1000/a.png", "cats/._a.png", "cats/Thumbs.db", "dogs/.DS_Store",
)  # fmt: skip


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate(("cats/a.png", "dogs/a.png", *LEFT_BEHIND)):
        path = tmp_path / "pets" / name
        save(path.with_suffix(".png"), seed=i)
        path.with_suffix(".png").rename(path)
    return tmp_path / "pets"


def test_hidden_and_system_files_are_skipped_and_counted(pets, tmp_path):
    files = {p.relative_to(pets).as_posix(): p.read_bytes() for p in pets.rglob("*") if p.is_file()}
    for source in (pets, zipped(tmp_path / "pets.zip", files)):
        notes = []
        kept, dropped = prepare(source, tmp_path / "o.zip", labels="folders", tell=notes.append)
        assert list(kept) == ["cats/a.png", "dogs/a.png"] and not dropped
        assert index_of(tmp_path / "o.zip")["classes"] == ["cats", "dogs"]
        first = ".Trash-1000/a.png"
        assert notes == [f"skipped {len(LEFT_BEHIND)} hidden or system files, first {first}"]
        data = ImageDataset(source, use_labels=True, cache="none")
        assert data.class_names == ["cats", "dogs"] and data.notes == notes


def test_which_names_are_hidden():
    for name in LEFT_BEHIND:
        assert is_hidden(name), name
    for name in ("a.png", "./a.png", "../a.png", "a..b/c.png", "cats\\a.png", "_a/b.png"):
        assert not is_hidden(name), name
    assert top_folder("cats\\a.png") == "cats" and top_folder("./a.png") is None
    assert canonical(".\\cats//é.png") == "cats/é.png"  # composed


def test_links_to_folders_are_followed_once(tmp_path):
    save(tmp_path / "in" / "cats" / "a.png")
    dogs = save(tmp_path / "elsewhere" / "dogs" / "a.png", seed=1)
    (tmp_path / "in" / "dogs").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "in" / "dogs2").symlink_to(tmp_path / "elsewhere" / "dogs")  # twice
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "cats")  # listed where it is
    (tmp_path / "elsewhere" / "dogs" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_folder(tmp_path / "in")
    assert listing.names == ["cats/a.png", "dogs/a.png"]
    assert listing.notes(listing.names) == [
        "not read: 1 broken link: gone.png",
        "not read: 3 links to folders that are listed already, first again",
    ]
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip", labels="folders")
    assert [item.label for item in kept.values()] == [0, 1]
    assert (pixels_of(tmp_path / "o.zip", kept["dogs/a.png"].name) == dogs).all()
    images = ImageDataset(tmp_path / "in", cache="none").images([1])[0]
    assert (images.permute(1, 2, 0).numpy() == dogs).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_folders_that_cannot_be_opened_are_said(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "shut").mkdir(mode=0)
    notes = ImageSource(tmp_path).notes
    assert notes == ["not read: 1 folder that cannot be opened: shut"]


def test_files_that_are_no_pictures_are_counted(tmp_path):
    save(tmp_path / "in" / "a.png")
    for name in ("1.xcf", "2.xcf", "inner.zip", "IMG_1", "dataset.json"):
        (tmp_path / "in" / name).write_text('{"labels": null}')
    result = run("--source", tmp_path / "in", "--dest", tmp_path / "o.zip")
    assert "not read: 2 .xcf, 1 .zip, 1 without extension\n" in result.stderr
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(
        ValueError, match=r"no image files found in .* \(not read: 2 \.xcf, 1 \.zip"
    ):
        ImageSource(tmp_path / "in")


def test_hidden_shards_are_none(tmp_path):
    (tmp_path / "._shards-000.tar").write_bytes(b"resource fork")
    assert not is_shards(tmp_path)
    (tmp_path / "shards-000.tar").write_bytes(b"")
    assert is_shards(tmp_path) and _tars(tmp_path) == [str(tmp_path / "shards-000.tar")]


def test_repeated_names_in_a_zip_are_said(tmp_path):
    save(tmp_path / "a.png")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "d.zip", "w") as archive,
    ):
        for _ in range(2):
            archive.write(tmp_path / "a.png", "a.png")
    source = ImageSource(tmp_path / "d.zip")
    assert source.notes == ["not read: 1 repeated name, of which the last counts: a.png"]


@pytest.mark.parametrize(
    "table, names, folder, found",
    [
        ("cats\\a.png dogs\\a.png", "cats/a.png dogs/a.png", "", [0, 1]),
        ("./dogs/a.png ./cats/a.png", "cats/a.png dogs/a.png", "", [1, 0]),
        ("cats/a.png dogs/a.png", "cats\\a.png dogs\\a.png", "", [0, 1]),  # a zip from Windows
        ("cats/a.png dogs/a.png", "photos/cats/a.png photos/dogs/a.png", "photos/", [0, 1]),
        ("cats/a.png dogs/a.png", "me/photos/cats/a.png me/photos/dogs/a.png", "", [0, 1]),
        ("photos/cats/a.png photos/dogs/a.png", "cats/a.png dogs/a.png", "", [0, 1]),
        ("cats/a.png", "me/cats/a.png me/cats/b.png", "", [0, None]),
        ("Cats/A.PNG dogs/a.png", "cats/a.png dogs/a.png", "", [0, 1]),
        ("Cats/a.png CATS/a.png", "cats/a.png", "", [None]),  # which one?
        ("cats/a.png", "cats/a.png Cats/a.png", "", [0, None]),
        ("train/1.png", "test/1.png", "", [None]),
        ("e\u0301.png", "\xe9.png", "", [0]),  # macOS decomposes letters
        ("a.png b.png", "b.png c.png", "", [1, None]),
    ],
)
def test_names_agree_however_they_are_written(table, names, folder, found):
    order = table.split()
    expected = [None if place is None else order[place] for place in found]
    assert match_names(dict.fromkeys(order, 0), names.split(), folder) == expected
