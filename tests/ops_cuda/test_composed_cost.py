"""The composition in plain PyTorch costs about what the Triton kernel does, counted on `meta`."""

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ops_cuda.filtered_lrelu import composed, triton_tables
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.filtered_lrelu.triton_path import shape_of
from sg3.networks import build_network

#: Shared memory of a program on an A100, for the tile of the kernel.
A100 = 166912
#: Bytes of workspace that the smallest layers may have in any case.
WORKSPACE = 32 << 20
PRODUCTS = ("addmm_", "baddbmm_", "addmm", "baddbmm", "mm", "bmm")


class Counted(TorchDispatchMode):
    """Bytes of new tensors, at most at a time, and multiplications of matrix products."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = self.products = 0
        self._known = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _tensor(t)}
        result = function(*args, **(kwargs or {}))
        for tensor in filter(_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._known:
                size = storage.nbytes()
                self._known[storage._cdata] = size
                self.live += size
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self.live)
        if function.name().split("::")[1].split(".")[0] in PRODUCTS:
            self.products += result.numel() * args[-1].shape[-2]
        return result

    def _freed(self, key):
        self.live -= self._known.pop(key, 0)


def _tensor(value) -> bool:
    return isinstance(value, torch.Tensor)


def kernel_products(x, fu, fd, geometry) -> float:
    """Multiplications of the Triton kernel for one call."""
    shape = shape_of(x, fu, fd, geometry)
    tile = triton_tables.best_tile(shape, A100)
    rows = tile.sm // shape.down
    upward = tile.sm * tile.in_y * tile.in_x + tile.sm * tile.in_x * tile.mid
    downward = tile.sm * tile.mid * tile.out + 2 * max(rows, 16) * tile.sm * tile.out
    width, height = geometry.output_size(x.shape[3], x.shape[2], fu, fd)
    tiles = math.ceil(height / rows) * math.ceil(width / tile.valid) * x.shape[0] * x.shape[1]
    return tiles * (shape.u_terms * upward + shape.d_terms * downward)


def calls(cfg: str, dtype: torch.dtype) -> Iterator[tuple]:
    """The calls of every fourth layer of an official 256 network, for a batch of 4."""
    width = 2 if cfg == "R" else 1
    kwargs = dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=256, img_channels=3, channel_base=16384 * width,
        channel_max=512 * width, conv_kernel=3 if cfg == "T" else 1, use_radial_filters=cfg == "R",
    )  # fmt: skip
    synthesis = build_network("stylegan3", kwargs).synthesis
    size = synthesis.input.shape.width
    for index, name in enumerate(synthesis.layer_names[:-1]):
        layer = getattr(synthesis, name)
        size += layer.conv_kernel - 1
        geometry = Geometry(
            layer.up_factor, layer.down_factor, tuple(layer.padding), 2**0.5, 0.2, 256.0, False
        )
        x = torch.empty([4, layer.out_channels, size, size], dtype=dtype, device="meta")
        if index % 4 == 3:
            yield name, x, layer.up_filter, layer.down_filter, geometry
        size, _ = geometry.output_size(size, size, layer.up_filter, layer.down_filter)


@pytest.mark.slow
@pytest.mark.parametrize("cfg, dtype", [("T", torch.float16), ("R", torch.float32)])
def test_memory_and_arithmetic_of_the_layers(cfg, dtype):
    """Per layer memory ≤ 1.3 × and arithmetic ≤ 1.5 × of the kernel's, which has no workspace."""
    for name, x, fu, fd, geometry in calls(cfg, dtype):
        y_size = [*x.shape[:2], *geometry.output_size(x.shape[3], x.shape[2], fu, fd)]
        back = geometry.transposed(x.shape, fu, fd)
        with Counted() as forward:
            y, states = composed.forward_with_states(x, fu, fd, None, geometry)
        assert list(y.shape) == y_size
        with Counted() as backward:
            composed.linear(y, fd, fu, states, back)
        inputs = {"forward": x, "backward": y}
        for part, count, there in (("forward", forward, geometry), ("backward", backward, back)):
            filters = (fu, fd) if part == "forward" else (fd, fu)
            kept = sum(t.numel() * t.element_size() for t in (x, y, states))
            own = count.peak + inputs[part].numel() * x.element_size()
            own += states.numel() if part == "backward" else 0
            products = kernel_products(inputs[part], *filters, there)
            print(name, part, f"{own / kept:.2f} {count.products / products:.2f}")
            assert own <= max(1.3 * kept, kept + WORKSPACE), (name, part, own / kept)
            assert count.products <= 1.5 * products, (name, part, count.products / products)
