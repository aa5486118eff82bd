"""Small pictures, folders and archives for the tests of `sg3 dataset`, and the call of it."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import program
from PIL import Image

from sg3.data.prepare import prepare_dataset


def noise(width, height, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def save(path, width=8, height=8, channels=3, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(width, height, channels, seed)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def prepare(source, dest, *args, **options):
    """What was kept, by source name, and why the others were dropped."""
    items = list(prepare_dataset(source, dest, *args, **options))
    assert [item.index for item in items] == list(range(items[0].total))
    kept = {item.source: item for item in items if item.reason is None}
    return kept, {item.source: item.reason for item in items if item.reason is not None}


def pixels_of(path, name):
    with zipfile.ZipFile(path) as archive:
        return np.asarray(Image.open(io.BytesIO(archive.read(name))))


def index_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


def run(*arguments):
    return program.run("dataset", *arguments)


def fails(expected, *arguments):
    program.fails(expected, "dataset", *arguments)
