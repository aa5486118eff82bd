"""Plans of the fused CPU path: filter taps and memory layout, independent of the data.

Signals are split into phases (polyphase filtering), so that every inner loop runs over contiguous
memory: with `L = lcm(up, down)` the fine grid has L phases, the input `E = L/up` and the output
`R = L/down`; all samples of a phase use the same taps. A 2-D filter is decomposed into separable
terms; the radial filters of configuration R need three.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.planes import separable_terms

#: Singular values of a 2-D filter below this fraction of the largest are dropped.
SMALLEST_TERM = 5e-6
#: Maximum length of a row of planes in floats: long loops that stay in the L1 cache.
ROW_LENGTH = 800
#: Kind of downsampling for radial filters with factor 2: filters the columns first.
COLUMNS_FIRST = 4
#: Number of fine rows in memory for `COLUMNS_FIRST`; when full, the last ones move to the front.
#: Even, and at least the 12 taps of the filter.
FINE_ROWS = 32
#: The loops of `numba_rows` need multiples of these: taps of a row, taps of a column, columns.
ROW_TAPS, COLUMN_TAPS, COLUMNS = 6, 12, 32


class Upsampling(NamedTuple):
    """Plan of the upsampling filter; the first axis is the separable term."""

    taps: np.ndarray  # [terms, taps_x]
    phase_taps: np.ndarray  # [terms, L, taps of a phase]
    starts: np.ndarray  # [L, taps of a phase, 2]: input phase and column that each tap reads
    column_taps: np.ndarray  # [terms, taps_y]
    kind: int


class Downsampling(NamedTuple):
    """Plan of the downsampling filter."""

    taps: np.ndarray  # [terms, taps_x]
    column_taps: np.ndarray  # [terms, taps_y]
    padded_taps: np.ndarray  # [terms, taps]
    starts: np.ndarray  # [R, taps, 2]: fine phase and column that each tap reads
    slot_taps: np.ndarray  # [taps_y, terms, slots]: by first slot of the ring, the tap of each slot
    kind: int


class Workspace(NamedTuple):
    """Scratch rows of one thread."""

    rows: np.ndarray  # [slots, E, width]
    row_taps: np.ndarray  # [terms, slots]
    row_of: np.ndarray  # [slots]: index of the input row in each slot
    inputs: np.ndarray  # [terms, E, width]
    fine: np.ndarray  # [rows, L, width]
    folded: np.ndarray  # [terms, L, width]
    ring: np.ndarray  # [terms, slots, R·columns]
    finished: np.ndarray  # [R·columns]
    codes: np.ndarray  # [columns]


def round_up(value: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-value // multiple) * multiple


def phases_of(geometry: Geometry) -> int:
    """Return L, the number of phases of the fine grid."""
    return math.lcm(geometry.up, geometry.down)


def first_position(geometry: Geometry) -> tuple[int, int]:
    """Return the phase of the first fine sample and the input sample at column 0 of phase 0."""
    num_phases, left = phases_of(geometry), geometry.padding[0]
    base = -left // num_phases * num_phases
    return -left - base, base // geometry.up


def columns_of(geometry: Geometry, width: int, taps: int) -> int:
    """Return the number of columns per plane; `taps` is the length of the upsampling filter in x.

    Fine samples of a plane may read beyond its columns, but only zeros: those to the right of its
    last input sample and to the left of the first one of the next plane.
    """
    num_phases = phases_of(geometry)
    num_inputs = num_phases // geometry.up
    lead, first_input = first_position(geometry)
    middle_w = width * geometry.up + sum(geometry.padding[:2]) - taps + 1
    fine = -(-(lead + middle_w) // num_phases)
    reach = 1 - (-taps // geometry.up) // num_inputs
    zeros_left = max(0, -first_input // num_inputs)
    last_input = -(-(width - first_input) // num_inputs)
    return max(fine + reach - zeros_left, fine, last_input)


def row_layout(columns: int) -> tuple[int, int]:
    """Return planes per row and columns per plane; their product is a multiple of 32."""
    stride = round_up(columns, 8)
    step = COLUMNS // math.gcd(stride, COLUMNS)
    group = ROW_LENGTH // stride // step * step
    return (group, stride) if group else (1, round_up(stride, COLUMNS))


def _terms(f: torch.Tensor | None, flip_filter: bool, gain: float = 1):
    """Return the separable terms as float32 `[terms, taps_x]` and `[terms, taps_y]`."""
    terms = separable_terms(f, flip_filter, gain, SMALLEST_TERM)
    return tuple(taps.astype(np.float32) for taps in terms)


def _kind(factor: int, num_phases: int, num_taps: int) -> int:
    """Select specialised loops of `numba_rows` by (factor, phases): 0 generic, 1 (2, 2), 2 (2, 4),
    3 (4, 4). They need six taps per phase."""
    fits = num_taps == 6 * factor
    return {(2, 2): 1, (2, 4): 2, (4, 4): 3}.get((factor, num_phases), 0) if fits else 0


def upsampling(fu: torch.Tensor | None, geometry: Geometry) -> Upsampling:
    """Plan the upsampling by `geometry.up`; keeps the brightness."""
    up, num_phases = geometry.up, phases_of(geometry)
    taps, column_taps = _terms(fu, geometry.flip_filter, up**2)
    num_inputs, num_taps = num_phases // up, taps.shape[1]
    max_taps = round_up(-(-num_taps // up), ROW_TAPS)
    phase_taps = np.zeros([len(taps), num_phases, max_taps], np.float32)
    starts = np.zeros([num_phases, max_taps, 2], np.int64)
    for p in range(num_phases):
        first = -p % up  # the first tap that reads an input sample rather than an inserted zero
        source = (p + first) // up
        for t, k in enumerate(range(first, num_taps, up)):
            phase_taps[:, p, t] = taps[:, k]
            starts[p, t] = (source + t) % num_inputs, (source + t) // num_inputs
    kind = _kind(up, num_phases, num_taps)
    if kind == 3 and len(taps) > 1:  # this loop has no variant that adds further terms
        kind = 0
    return Upsampling(taps, phase_taps, starts, column_taps, kind)


def downsampling(fd: torch.Tensor | None, geometry: Geometry) -> Downsampling:
    """Plan the downsampling by `geometry.down`."""
    down, num_phases = geometry.down, phases_of(geometry)
    lead, _ = first_position(geometry)
    taps, column_taps = _terms(fd, geometry.flip_filter)
    (num_terms, num_taps), num_rows = taps.shape, column_taps.shape[1]
    padded = np.zeros([num_terms, round_up(num_taps, ROW_TAPS)], np.float32)
    padded[:, :num_taps] = taps
    starts = np.zeros([num_phases // down, padded.shape[1], 2], np.int64)
    for r in range(len(starts)):
        position = r * down + lead + np.arange(num_taps)
        starts[r, :num_taps, 0], starts[r, :num_taps, 1] = (
            position % num_phases,
            position // num_phases,
        )
    slot_taps = np.zeros([num_rows, num_terms, round_up(num_rows, COLUMN_TAPS)], np.float32)
    for first in range(num_rows):
        slot_taps[first, :, (first + np.arange(num_rows)) % num_rows] = column_taps.T
    kind = _kind(down, num_phases, num_taps)
    # Folding symmetric taps saves a third of R's downsampling (docs/PERFORMANCE.md).
    if kind in (1, 2) and num_terms > 1 and num_rows == 12 and _symmetric(taps, column_taps):
        kind = COLUMNS_FIRST
    return Downsampling(taps, column_taps, padded, starts, slot_taps, kind)


def _symmetric(*filters: np.ndarray) -> bool:
    """Whether all filters `[terms, n]` are symmetric within float32 precision."""
    return all(abs(f - f[:, ::-1]).max() <= 1e-6 * abs(f).max() for f in filters)


def workspace(up: Upsampling, down: Downsampling, columns: int, geometry: Geometry) -> Workspace:
    """Allocate zeroed rows: what loops read beyond their plane must be finite."""
    num_phases = phases_of(geometry)
    num_inputs, num_outputs = num_phases // geometry.up, num_phases // geometry.down
    width = columns + round_up(8 + (up.taps.shape[1] + down.taps.shape[1]) // num_phases, COLUMNS)
    num_rows = -(-up.column_taps.shape[1] // geometry.up)
    # `fir_column` takes 6 taps or a multiple of 12.
    num_rows = ROW_TAPS if num_rows <= ROW_TAPS else round_up(num_rows, COLUMN_TAPS)
    _, num_terms, num_slots = down.slot_taps.shape
    shapes = {
        "rows": [num_rows, num_inputs, width],
        "row_taps": [len(up.taps), num_rows],
        "inputs": [len(up.taps), num_inputs, width],
        "fine": [1, num_phases, width],
        "folded": [1, 1, 1],
        "ring": [num_terms, num_slots, num_outputs * columns],
        "finished": [num_outputs * columns],
    }
    if down.kind == COLUMNS_FIRST:
        shapes |= {"fine": [FINE_ROWS, num_phases, width], "folded": [num_terms, num_phases, width]}
        shapes["ring"] = [1, 1, 1]
    return Workspace(
        **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
        row_of=np.zeros(num_rows, np.int64),
        codes=np.zeros(columns, np.uint8),
    )
