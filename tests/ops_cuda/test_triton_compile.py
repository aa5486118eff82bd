"""The hot kernels compile without a GPU and without spilling registers."""

import pytest
import torch

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget

from ops_cuda import compile_kernels
from ops_cuda.filtered_lrelu.triton_tables import Shape, best_tile, shared_memory

#: Shared memory of a program on consumer cards (sm_86, sm_89).
MIN_SHARED_MEMORY = 101376


@pytest.mark.slow
@pytest.mark.parametrize("layer", compile_kernels.LAYERS)
def test_filtered_lrelu_compiles_for_hopper(layer):
    for part, launch in compile_kernels.filtered_lrelu_launches(layer, torch.float16).items():
        found = compile_kernels.compiled(launch, 90)
        assert found.spills == 0, part
        assert found.matrix >= 24, "products on tensor cores"
        assert found.registers <= 255 and found.shared <= MIN_SHARED_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upfirdn2d, up 1, down 2, 4×4", "bias_act, lrelu"])
def test_others_compile_for_hopper(name):
    for launch in compile_kernels.configurations()[name](torch.float16).values():
        assert compile_kernels.compiled(launch, 90).spills == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", [("cuda", 75, 32), ("hip", "gfx942", 64)])
def test_kernels_compile_for_a_t4_and_an_mi300(target):
    """Not run there: `SG3_OPS=triton` tries them."""
    names = ("filtered_lrelu, T, up 2", "upfirdn2d, up 1, down 2, 4×4", "bias_act, lrelu")
    for name in names:
        dtype = torch.float32 if name.startswith("filtered") else torch.float16
        launch = next(iter(compile_kernels.configurations()[name](dtype).values()))
        assert compile_kernels.compiles(launch, GPUTarget(*target)) > 1000


def test_alignment_follows_the_layers():
    """T's convolutions add two columns, so their rows are read in pairs; the rest in fours."""
    found = {
        layer: [
            (launch.arguments["X_VECTOR"], launch.arguments["Y_VECTOR"])
            for launch in compile_kernels.filtered_lrelu_launches(layer, torch.float16).values()
        ]
        for layer in compile_kernels.LAYERS
    }
    assert found["T, up 2"] == found["T, up 4"] == [(2, 4), (2, 4), (2, 4), (4, 2)]
    assert found["R, up 2"] == found["R, up 4"] == [(4, 4)] * 4


def test_a_spill_would_be_seen():
    """A tile far too large for one warp must be reported as spilling."""
    path = compile_kernels.filtered_lrelu_path
    tile = compile_kernels.filtered_lrelu_path.Tile(64, 64, 64, 128, 32, 20, num_warps=1)
    original, path.best_tile = path.best_tile, lambda *arguments: tile
    try:
        launch = compile_kernels.filtered_lrelu_launches("T, up 2", torch.float16)["forward"]
    finally:
        path.best_tile = original
    assert compile_kernels.compiled(launch, 90).spills > 0


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("terms", [(1, 1), (1, 3), (3, 1)])
def test_tiles_fit_the_memory_of_the_card(element_size, terms):
    for up in (1, 2, 4):
        for down in (1, 2, 4):
            taps = (6 * up, 6 * up), (6 * down, 6 * down)
            shape = Shape(up, down, *taps, *terms, element_size)
            assert best_tile(shape, 232448) is not None
            small = best_tile(shape, MIN_SHARED_MEMORY)
            assert small is None or shared_memory(small, shape) <= MIN_SHARED_MEMORY
            assert small is not None or (element_size == 4 and down == 4)
