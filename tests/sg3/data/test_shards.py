"""Tar shards: complete and disjoint over ranks, exact resume, damage, loopback URLs."""

import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.data import ImageDataset, open_dataset, open_loader, tar_stream, write_shards
from sg3.data.shard_loader import ShardOrder, mix
from sg3.training.run_writer import choose_grid_items

pytest.importorskip("webdataset")
COUNT = 46  # images, each a class of its own


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("sg3.data.shards.BUFFER", (6, 6))
    monkeypatch.setattr("sg3.data.shards.EXAMPLES", 10)
    monkeypatch.setattr(tar_stream, "WAIT", 0.01)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for i in range(COUNT):
        Image.fromarray(random.randint(0, 255, [4, 6, 3], np.uint8)).save(folder / f"{i:02d}.png")
    labels = [[f"{i:02d}.png", i] for i in range(COUNT)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return ImageDataset(folder, use_labels=True)


@pytest.fixture
def shards(images, tmp_path):
    paths = list(write_shards(images, tmp_path / "shards", 8))
    assert [path.name for path in paths] == [f"shards-{i:06d}.tar" for i in range(6)]
    return tmp_path / "shards"


def drop_counts(folder):
    index = json.loads((folder / "index.json").read_text())
    del index["shardlist"]
    (folder / "index.json").write_text(json.dumps(index))


def take(path, count, batch=4, state=None, **options):
    """Return images and classes of `count` batches, and the state after them."""
    data = open_dataset(path, use_labels=True)
    loader = open_loader(data, batch, **options)
    if state is not None:
        loader.next()
        loader.load_state(state)
    shown = [loader.next() for _ in range(count)]
    state = loader.state()
    loader.close()
    return torch.cat([x for x, _ in shown]), torch.cat([c for _, c in shown]).argmax(1), state


def epoch(path, rank, replicas, number=0):
    """Return the labels of one epoch of one rank, in order."""
    order = ShardOrder(open_dataset(path, use_labels=True), 3, rank, replicas)
    return [sample.label for sample in order.samples(number, 0) if sample is not None]


def test_images_and_labels_come_through(images, shards):
    data = open_dataset(shards, use_labels=True)
    assert data.image_shape == (3, 4, 6) and data.label_dim == COUNT and data.num_images == COUNT
    assert data.describe() == "46 images of 46 classes in 6 shards"
    assert open_dataset(shards).unused_labels == ("classes", COUNT)
    assert open_dataset(shards).describe() == "46 images in 6 shards"
    assert data.name == "shards" and len(data) == 10 and data.resolution == (4, 6)
    assert torch.equal(data.images(range(10)), images.images(range(10)))
    assert torch.equal(data.labels(range(10)), images.labels(range(10)))
    items = choose_grid_items(data, 3, 2)
    assert data.images(items).shape == (6, 3, 4, 6)
    assert data.random_labels(np.random.RandomState(0), 7).sum(1).tolist() == [1] * 7
    shown, classes, _ = take(shards, 11)
    assert torch.equal(shown, images.images(classes))


@pytest.mark.parametrize("replicas", [1, 2, 4, 9])  # with 9 there are fewer shards than ranks
def test_ranks_are_disjoint_and_complete(shards, replicas):
    for number in (0, 1):
        parts = [epoch(shards, rank, replicas, number) for rank in range(replicas)]
        assert sorted(chain.from_iterable(parts)) == list(range(COUNT))
    assert epoch(shards, 0, replicas, 0) != epoch(shards, 0, replicas, 1)
    if replicas == 1:
        assert parts[0] != sorted(parts[0])


@pytest.mark.slow
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("rank, replicas", [(0, 1), (1, 2), (7, 8)])
@pytest.mark.parametrize("before, after", [(0, 2), (2, 0)])
def test_resume_is_exact(shards, counted, rank, replicas, before, after):
    if not counted:
        drop_counts(shards)
    options = {"seed": 5, "rank": rank, "replicas": replicas}
    whole, classes, _ = take(shards, 24, **options)  # two epochs and more
    for batches in (1, 13):
        first, _, state = take(shards, batches, workers=before, **options)
        rest, _, _ = take(shards, 24 - batches, state=state, workers=after, **options)
        assert torch.equal(torch.cat([first, rest]), whole)
    assert len(set(classes.tolist())) > 4


def test_resume_opens_only_what_it_needs(shards, monkeypatch):
    data = open_dataset(shards, use_labels=True)
    order, opened = ShardOrder(data, 3, 0, 1), []
    expected = [s.label for s in order.samples(0, 0)][40:]
    read = tar_stream.read_shard
    monkeypatch.setattr(
        "sg3.data.shard_loader.read_shard", lambda url, skip: opened.append(url) or read(url, skip)
    )
    assert [s.label for s in order.samples(0, 40)] == expected
    assert 0 < len(opened) < 5


def test_flips_are_part_of_the_order(images, shards):
    data = open_dataset(shards, use_labels=True, xflip=True, yflip=True)
    loader = open_loader(data, 8, seed=1)
    first = [loader.next() for _ in range(3)]
    state = loader.state()
    expected = loader.next()[0]
    loader.load_state(state)
    assert torch.equal(loader.next()[0], expected)
    flips = set()
    for image, label in ((x, c) for batch in first for x, c in zip(*batch, strict=True)):
        plain = images[int(label.argmax())][0]
        for name, version in enumerate((plain, plain.flip(2), plain.flip(1), plain.flip(1, 2))):
            if torch.equal(image, version):
                flips.add(name)
    assert flips == {0, 1, 2, 3}
    loader.close()


def rewrite(path, change):
    """Rewrite a tar with the files that `change` returns."""
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}
    with tarfile.open(path, "w") as archive:
        for name, data in change(files).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_samples_are_skipped(shards, workers):
    def spoil(files):
        files["00000000.png"] = b"no image"  # the first sample
        files["00000002.png"] = png(6, 5)
        files["00000003.png"] = files["00000003.png"][:60]
        del files["00000004.png"], files["00000005.cls"]
        return files

    rewrite(shards / "shards-000000.tar", spoil)
    data = open_dataset(shards, use_labels=True)
    loader = open_loader(data, 4, workers=workers)
    classes = torch.cat([loader.next()[1] for _ in range(10)]).argmax(1).tolist()
    loader.close()
    assert len(set(classes)) == 40 and not {0, 2, 3, 4, 5} & set(classes)  # of 41, once each
    lines = {line.split("/")[-1] for line in data.skipped}
    assert "00000000: not an image that can be identified" in lines
    assert "00000002: is 6x5 RGB, expected 6x4 RGB" in lines
    assert "00000005: no label (cls, or json with 'label')" in lines
    assert data.num_skipped == 5


def test_the_rest_of_a_truncated_shard_is_skipped(shards):
    path = shards / "shards-000003.tar"
    path.write_bytes(path.read_bytes()[: 3 * 2048 + 700])
    for counted in (True, False):
        if not counted:
            drop_counts(shards)
        data = open_dataset(shards, use_labels=True)
        order = ShardOrder(data, 0, 0, 1)
        samples = list(order.samples(0, 0))
        assert len(samples) == (COUNT if counted else COUNT - 5)
        assert sorted(s.label for s in samples if s is not None) == [*range(27), *range(32, COUNT)]
        assert "damaged after 3 samples (unexpected end of data)" in data.skipped[0]
        assert list(order.samples(0, 30)) == samples[30:]


@pytest.fixture
def server(shards):
    """Serve the shards over HTTP; the next `fail` requests for one of them get half a file."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        fail = 0

        def do_GET(self):
            if Handler.fail and self.path.endswith("2.tar"):
                Handler.fail -= 1
                data = (shards / self.path.strip("/")).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                return
            super().do_GET()

        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(shards))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs with curl")
def test_urls_on_the_loopback_device(shards, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, handler = server
    pattern = url + "/shards-{000000..000005}.tar"
    data = open_dataset(pattern, use_labels=True)
    assert data.num_images == COUNT and data.label_dim == COUNT and data.name == "shards"
    assert epoch(pattern, 0, 1) == epoch(shards, 0, 1)
    handler.fail = 2  # interrupted transfers are restarted
    assert epoch(pattern, 0, 1) == epoch(shards, 0, 1) and handler.fail == 0
    with pytest.raises(
        ValueError, match=r"cannot read shard http.*7\.tar: curl exited with code 22;"
    ):
        open_dataset(url + "/shards-{000007..000008}.tar")


def test_urls_of_object_stores(images, shards, tmp_path):
    """Whatever fsspec opens; its memory stands for a bucket."""
    import fsspec

    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    names = sorted(path.name for path in shards.glob("*.tar"))
    remote = f"memory://bucket/{{{','.join(name.removesuffix('.tar') for name in names)}}}.tar"
    assert epoch(remote, 0, 1) == epoch(shards, 0, 1)
    with pytest.raises(ValueError, match=r"cannot open nowhere://bucket/.*Protocol not known"):
        open_dataset("nowhere://bucket/a.tar")


def test_labels_that_do_not_fit(shards):
    (shards / "index.json").unlink()
    data = open_dataset(shards, use_labels=True)
    assert data.label_dim == 10 and data.num_images is None  # of the examples
    loader = open_loader(data, 4)
    with pytest.raises(ValueError, match="does not fit the label dimension 10; write 'label_dim'"):
        for _ in range(10):
            loader.next()
    loader.close()


def test_label_vectors(tmp_path, images):
    vectors = np.random.RandomState(0).randn(COUNT, 3).astype(np.float32)
    labels = [[f"{i:02d}.png", vectors[i].tolist()] for i in range(COUNT)]
    shutil.copytree(images.path, tmp_path / "in")
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": labels}))
    list(write_shards(open_dataset(tmp_path / "in", use_labels=True), tmp_path / "out", 20))
    data = open_dataset(tmp_path / "out", use_labels=True)
    assert np.array_equal(data.labels(range(10)).numpy(), vectors[:10])


@pytest.mark.parametrize(
    "path, options, message",
    [
        ("shards/shards-{000000..000009}.tar", {}, "4 of 10 shards do not exist, first .*6.tar"),
        ("shards/{0..199999}.tar", {}, "names more than 100000 shards"),
        ("shards/{{0..1}.tar", {}, "unbalanced braces"),
        ("shards", {"max_size": 5}, "max_size: got 5, but tar shards"),
        ("pipe:echo hello > hello.tar", {}, "do not exist"),
        ("bare", {}, "no usable samples"),
    ],
)
def test_bad_paths(shards, path, options, message, monkeypatch):
    monkeypatch.chdir(shards.parent)
    (shards.parent / "bare").mkdir()
    tarfile.open(shards.parent / "bare" / "pipe:touch hello;.tar", "w").close()
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(path, **options)
    assert "\n" not in str(error.value)
    assert not list(shards.parent.glob("hello*"))


def test_shards_without_labels_or_with_different_sizes(shards):
    for path in sorted(shards.glob("*.tar"))[:2]:
        rewrite(path, lambda files: {n: d for n, d in files.items() if n.endswith("png")})
    (shards / "index.json").unlink()
    with pytest.raises(ValueError, match="labels were asked for but the first 10 samples"):
        open_dataset(shards, use_labels=True)
    sizes = iter(range(5, 50))
    rewrite(
        shards / "shards-000000.tar", lambda files: {name: png(6, next(sizes)) for name in files}
    )
    with pytest.raises(ValueError, match=r"of the first 10 samples 9 cannot be used, first .*6x6"):
        open_dataset(shards)


def test_too_few_samples_for_the_ranks(shards):
    data = open_dataset(shards)
    loader = open_loader(data, 2, rank=60, replicas=64)
    with pytest.raises(ValueError, match="no samples for process 60 of 64"):
        loader.next()
    loader.close()


def test_the_shuffle_buffer_keeps_everything():
    mixed = list(mix(range(100), 10, np.random.RandomState(0)))
    assert sorted(mixed) == list(range(100)) and mixed != list(range(100))
    assert list(islice(mix(iter(range(10**9)), 10, np.random.RandomState(0)), 90)) == mixed[:90]
