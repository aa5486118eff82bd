"""Landmarks of faces by dlib: the detector and the 68 points that FFHQ was aligned with.

Needs the extra `faces`: dlib, and face_recognition_models for the file of the landmark model.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sg3.data.faces import FaceSquare, aligned_square
from sg3.errors import UserError

MODEL = "shape_predictor_68_face_landmarks.dat"
#: The detector finds faces of 80 pixels and more, and takes seconds for a large photograph.
DETECT_PX = 1024


def model_path() -> Path:
    """Return the file of the landmark model. Raises UserError if a package is missing."""
    # Not imported: the package needs pkg_resources, which newer setuptools lack.
    spec = importlib.util.find_spec("face_recognition_models")
    path = Path((spec and spec.origin) or "").parent / "models" / MODEL
    if importlib.util.find_spec("dlib") is None or not path.is_file():
        raise UserError(
            "align: finding faces needs dlib and its landmark model; install them with "
            "pip install 'sg3[faces]', or give `landmarks`"
        )
    return path


def find_face(image: Image.Image) -> FaceSquare | None:
    """Return the aligned square of the largest face in an upright image, or None."""
    rgb = image.convert("RGB")
    scale = min(DETECT_PX / max(rgb.size), 1)
    small = rgb.resize([max(round(side * scale), 1) for side in rgb.size])
    detect, predict, rectangle = _tools()
    # One upsampling: faces of 40 pixels and more.
    found = max(detect(np.asarray(small), 1), key=lambda face: face.area(), default=None)
    if found is None:
        return None
    sides = (found.left(), found.top(), found.right(), found.bottom())
    points = predict(np.asarray(rgb), rectangle(*(round(side / scale) for side in sides)))
    return aligned_square(np.array([(point.x, point.y) for point in points.parts()]))


@functools.cache  # once in every process
def _tools() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    import dlib

    predict = dlib.shape_predictor(str(model_path()))
    return dlib.get_frontal_face_detector(), predict, dlib.rectangle
