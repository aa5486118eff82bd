"""Resampling in phases equals upfirdn2d, in both forms, at any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ops_cuda.upfirdn2d.reference import Resampling, upfirdn2d_reference
from sg3.export.phases import FORMS, AxisTaps, PhaseResampling, interleaved

RADIAL = torch.tensor([[1.0, 2, 2, 1], [2, 5, 5, 2], [2, 5, 5, 2], [1, 2, 2, 1]])
RADIAL[0, 1], RADIAL[2, 3] = -3, 4  # not symmetric, so that a wrong orientation shows
ROW = torch.tensor([0.3, -1, 2, 5, 1, 0.7, -0.2, 0.1])


def phases_of(x, count, size):
    """Phases of an image, the largest of which has `size`."""
    x = F.pad(x, (0, size[0] * count - x.shape[3], 0, size[1] * count - x.shape[2]))
    return [x[:, :, j::count, i::count] for i in range(count) for j in range(count)]


def ceil(size, count):
    return tuple(-(-each // count) for each in size)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("up", [1, 2, 4])
@pytest.mark.parametrize("corner", [(3, 5), (-7, -2)])
def test_upsampling_gives_the_phases(form, up, corner):
    x = torch.randn(2, 3, 11, 14)
    size, out = (14, 11), (14 * up - 6, 11 * up - 5)
    spec = Resampling((up, up), (1, 1), (corner[0], 40, corner[1], 40), False, 1.5)
    expected = upfirdn2d_reference(x, ROW, spec)[:, :, : out[1], : out[0]]
    step = PhaseResampling(ROW, 1.5, up, 1, 1, corner, size, ceil(out, up))
    found = interleaved(FORMS[form](step, 3)([x]), 3)[:, :, : out[1], : out[0]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("phases", [2, 4])
@pytest.mark.parametrize("f", [ROW, RADIAL], ids=["separable", "radial"])
def test_downsampling_of_phases(form, phases, f):
    x = torch.randn(2, 3, 25, 31)
    expected = upfirdn2d_reference(x, f, Resampling((1, 1), (2, 2), (0, 0, 0, 0), False, 0.7))
    out = expected.shape[3], expected.shape[2]
    size = ceil((31, 25), phases)
    step = PhaseResampling(f, 0.7, 1, 2, phases, (0, 0), size, ceil(out, phases // 2))
    images = phases_of(x, phases, size)
    if form == "grouped":
        images = [torch.stack(images, 2).flatten(1, 2)]
    found = interleaved(FORMS[form](step, 3)(images), 3)[:, :, : out[1], : out[0]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_margin_that_nothing_reads_is_left_out(form):
    x = torch.randn(1, 2, 30, 30)
    step = PhaseResampling(ROW, 4, 2, 1, 1, (-7, -9), (30, 30), (20, 21))
    smaller, spare = step.without_spare()
    assert spare > 0
    assert smaller.size == (30 - 2 * spare, 30 - 2 * spare)
    inner = x[:, :, spare:-spare, spare:-spare]
    expected = interleaved(FORMS[form](step, 2)([x]), 2)
    found = interleaved(FORMS[form](smaller, 2)([inner]), 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_kernels_hold_as_many_taps_as_the_filter_has_per_phase():
    up = AxisTaps.of(12, 2, 1, 9, 1)
    assert up.index.shape == (2, 1, 6)
    down = AxisTaps.of(12, 1, 2, 0, 2)
    assert down.index.shape == (1, 2, 6)
    assert sorted(down.index.flatten()) == list(range(1, 13))
