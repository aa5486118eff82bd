"""Images and steps in notebooks."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from functools import cached_property

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.media import ImageStep, ImageTensor, to_uint8


def images(n: int = 2, channels: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand([n, channels, 6, 5], generator=random) * 2 - 1


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_side_by_side_as_png(n, channels):
    shown = ImageTensor.of(images(n, channels))
    png = Image.open(io.BytesIO(shown._repr_png_()))
    assert png.format == "PNG" and png.size == (5 * n, 6)
    assert png.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.concatenate(list(to_uint8(images(n, channels))), axis=1)
    assert np.array_equal(np.asarray(png).reshape(expected.shape), expected)
    assert np.array_equal(np.asarray(shown.pil()), np.asarray(png))


def test_results_of_operations_are_plain_tensors():
    shown = ImageTensor.of(images())
    assert type(shown) is ImageTensor and isinstance(shown, torch.Tensor)
    results = [
        shown + 1,
        1 - shown,
        shown[0],
        shown.mean(),
        shown.clone(),
        shown.detach(),
        shown.to(torch.float64),
        shown.flip(3),
        torch.cat([shown, shown]),
        torch.nn.functional.interpolate(shown, scale_factor=2),
        torch.nn.functional.conv2d(shown, torch.ones(1, 3, 1, 1)),
        *shown.split(1),
    ]
    assert all(type(result) is torch.Tensor for result in results)
    assert torch.equal(shown + 1, images() + 1)


def test_memory_is_shared_and_gradients_flow():
    source = images().requires_grad_()
    shown = ImageTensor.of(source * 2)
    shown.square().sum().backward()
    assert torch.allclose(source.grad, 8 * source)
    shown._repr_png_()  # also of a tensor with a gradient
    plain = images()
    ImageTensor.of(plain)[0] = 0
    assert not plain[0].any()


def test_copies_and_files_hold_plain_tensors():
    shown = ImageTensor.of(images())
    buffer = io.BytesIO()
    torch.save({"image": shown}, buffer)
    buffer.seek(0)
    for made in (
        pickle.loads(pickle.dumps(shown)),
        copy.deepcopy(shown),
        copy.copy(shown),
        torch.load(buffer, weights_only=True)["image"],
    ):
        assert type(made) is torch.Tensor and torch.equal(made, images())


@dataclasses.dataclass(frozen=True)
class FieldStep(ImageStep):
    index: int
    image: torch.Tensor


@dataclasses.dataclass(frozen=True)
class LazyStep(ImageStep):
    index: int
    rendered: list

    @cached_property
    def image(self) -> ImageTensor:
        self.rendered.append(self.index)
        return ImageTensor.of(images())


def test_steps_show_their_image():
    step = FieldStep(3, images())
    assert step.pil().size == (10, 6)
    assert step._repr_png_() == ImageTensor.of(images())._repr_png_()
    with pytest.raises(TypeError, match="image"):
        FieldStep(3)  # the mixin gives the field no default


def test_a_step_renders_when_it_is_shown():
    step = LazyStep(1, [])
    assert not step.rendered
    assert step._repr_png_() == step.image._repr_png_() and step.rendered == [1]
    assert dataclasses.replace(step, index=2).pil().size == (10, 6)
