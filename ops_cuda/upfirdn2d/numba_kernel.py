"""Loops of the CPU path. Without Numba the names exist but must not be called.

LLVM vectorises a loop over a row if the inner loop over taps has a constant length, so there is
one function per common number of taps.
"""

from __future__ import annotations

import numpy as np

from ops_cuda.numba_support import compiled

# No "nnan": NaN in the input must propagate to the output.
FASTMATH = {"contract", "reassoc", "nsz"}
allocating = compiled(fastmath=FASTMATH)
inline = compiled(fastmath=FASTMATH, _nrt=False)


ZERO, ONE = np.float32(0), np.float32(1)


def _along_row(length: int):
    """`out[j] = Σ_k taps[k]·source[j + k]` for `length` taps."""

    @inline
    def fir(out, source, taps):
        for j in range(len(out)):
            total = ZERO
            for k in range(length):
                total += taps[k] * source[j + k]
            out[j] = total

    return fir


def _along_pairs(length: int):
    """`_along_row` for every second `j`, the source split into even and odd samples."""

    @inline
    def fir(out, even, odd, taps):
        for j in range(len(out)):
            total = ZERO
            for k in range(length // 2):
                total += taps[2 * k] * even[j + k] + taps[2 * k + 1] * odd[j + k]
            out[j] = total

    return fir


def _down_column(length: int):
    """`out[j] = Σ_k taps[k]·rows[k, j]` for `length` taps."""

    @inline
    def fir(out, rows, taps):
        for j in range(len(out)):
            total = ZERO
            for k in range(length):
                total += taps[k] * rows[k, j]
            out[j] = total

    return fir


_row2, _row4, _row6, _row12 = (_along_row(length) for length in (2, 4, 6, 12))
_pairs4, _pairs12 = _along_pairs(4), _along_pairs(12)
_column2, _column4, _column6, _column12 = (_down_column(length) for length in (2, 4, 6, 12))


@inline
def _add_scaled(out, source, factor):
    for j in range(len(out)):
        out[j] += factor * source[j]


@inline
def _column(out, rows, taps):
    """FIR filter down the columns of any number of rows, including none."""
    if len(taps) == 4:
        _column4(out, rows, taps)
    elif len(taps) == 2:
        _column2(out, rows, taps)
    elif len(taps) == 6:
        _column6(out, rows, taps)
    elif len(taps) == 12:
        _column12(out, rows, taps)
    else:
        out[:] = ZERO
        for k in range(len(taps)):
            _add_scaled(out, rows[k], taps[k])


@inline
def _row(out, phases, taps, starts):
    """Compute one phase of an output row.

    Tap k reads phase `starts[k, 0]` from column `starts[k, 1]` on.
    """
    num_taps, first = len(taps), starts[0, 1]
    if len(phases) == 1 and num_taps == 4:
        _row4(out, phases[0, first:], taps)
    elif len(phases) == 1 and num_taps == 2:
        _row2(out, phases[0, first:], taps)
    elif len(phases) == 1 and num_taps == 6:
        _row6(out, phases[0, first:], taps)
    elif len(phases) == 1 and num_taps == 12:
        _row12(out, phases[0, first:], taps)
    elif len(phases) == 2 and num_taps == 4 and starts[0, 0] == 0:
        _pairs4(out, phases[0, first:], phases[1, first:], taps)
    elif len(phases) == 2 and num_taps == 12 and starts[0, 0] == 0:
        _pairs12(out, phases[0, first:], phases[1, first:], taps)
    else:
        out[:] = ZERO
        for k in range(num_taps):
            _add_scaled(out, phases[starts[k, 0], starts[k, 1] :], taps[k])


@inline
def _split(phases, line):
    """Split a row into phases: `phases[e, n] = line[E·n + e]`."""
    step = len(phases)
    if step == 2:
        even, odd = phases[0], phases[1]
        for j in range(len(even)):
            even[j] = line[2 * j]
            odd[j] = line[2 * j + 1]
    else:
        for e in range(step):
            for j in range(phases.shape[1]):
                phases[e, j] = line[step * j + e]


@inline
def _write(target, done):
    """Interleave phases: `target[R·n + r] = done[r, n]`."""
    step = len(done)
    if step == 2:
        even, odd = done[0], done[1]
        for j in range(len(target) // 2):
            target[2 * j] = even[j]
            target[2 * j + 1] = odd[j]
        if len(target) % 2:
            target[-1] = even[len(target) // 2]
    else:
        for r in range(step):
            for j in range((len(target) - r + step - 1) // step):
                target[step * j + r] = done[r, j]


@inline
def _rows(first, last, x, y, columns, rows, line, phases, filled, done, part):
    """The loop of `run_rows`; allocates nothing, so that it compiles without reference counting."""
    y_taps, y_counts, y_firsts, up, down, pad = rows
    x_taps, x_counts, x_starts, num_phases, _width, _base = columns
    height, out_h = x.shape[1], y.shape[1]
    num_outputs = len(x_counts)
    for index in range(first, last):
        plane, out_row = index // out_h, index % out_h
        position = out_row * down - pad
        phase = position % up
        source = (position + y_firsts[phase]) // up
        low, high = max(0, -source), max(0, min(y_counts[phase], height - source))
        sources = x[plane, source + low : max(source + high, 0)]
        for term in range(len(y_taps)):
            _column(filled, sources, y_taps[term, phase, low:high])
            if num_phases > 1:
                _split(phases, line)
            for r in range(num_outputs):
                target = y[plane, out_row] if num_outputs == 1 else done[r]
                taps = x_taps[term, r, : x_counts[r]]
                if term == 0:
                    _row(target, phases, taps, x_starts[r])
                else:
                    _row(part[: len(target)], phases, taps, x_starts[r])
                    _add_scaled(target, part, ONE)
        if num_outputs > 1:
            _write(y[plane, out_row], done)


@allocating
def run_rows(first, last, x, y, columns, rows):
    """Compute rows first..last−1 of all planes of `y` `[planes, H', W']` from `x` `[planes, H, W]`.

    `columns` and `rows` are the plans of `numba_cpu`. Filters down the columns, then along the row.
    """
    _x_taps, x_counts, x_starts, num_phases, width, base = columns
    # The line holds an input row with zero padding; reading starts at input sample `base`.
    length = width + x_starts[:, :, 1].max()
    start, end = min(base, 0), max(base + num_phases * length, x.shape[2])
    line = np.zeros(end - start, np.float32)
    filled = line[-start : x.shape[2] - start]
    read = line[base - start : base - start + num_phases * length]
    phases = np.zeros((num_phases, length), np.float32)
    if num_phases == 1:
        phases = read.reshape(1, length)
    done, part = np.zeros((len(x_counts), width), np.float32), np.zeros(width, np.float32)
    _rows(first, last, x, y, columns, rows, read, phases, filled, done, part)
