"""Loops of the fused CPU path over rows of groups of planes; see `numba_plan` for the layout.

Without Numba the names exist but must not be called.
"""

from __future__ import annotations

from ops_cuda.filtered_lrelu.numba_plan import COLUMNS_FIRST
from ops_cuda.filtered_lrelu.numba_rows import (
    down2_of2,
    down2_of4,
    down4_of4,
    fir_column,
    fir_row,
    fold2_of2,
    fold2_of4,
    fold_column_three,
    fold_column_two,
    inline,
    lrelu_row,
    lrelu_row_storing,
    pack,
    scale_row_by_codes,
    unpack,
    up2_from1,
    up2_from1_add,
    up2_from2,
    up2_from2_add,
    up4_from1,
)


@inline
def _interleave(target, source, step):
    """Write `source` to every `step`-th element of `target`."""
    if step == 1:
        for j in range(len(target)):
            target[j] = source[j]
    elif step == 2:
        for j in range((len(target) + 1) // 2):
            target[2 * j] = source[j]
    else:
        for j in range((len(target) + step - 1) // step):
            target[step * j] = source[j]


@inline
def _interleave2(target, first, second):
    """Interleave two phases."""
    pairs = len(target) // 2
    for j in range(pairs):
        target[2 * j] = first[j]
        target[2 * j + 1] = second[j]
    if len(target) % 2:
        target[2 * pairs] = first[pairs]


@inline
def _load_row(target, line, affine, first_input, start, stride):
    """Split an input row into phases, applying `affine` (scale, bias).

    Sample i = first_input + E·n + e of `line` goes to `target[e, start + n]`, n < stride.
    """
    num_inputs, scale, bias = len(target), affine[0], affine[1]
    for e in range(num_inputs):
        low = max(0, -((first_input + e) // num_inputs))
        high = min((len(line) - 1 - first_input - e) // num_inputs + 1, stride)
        if high <= low:
            continue
        source = line[first_input + e + num_inputs * low :]
        kept = target[e, start + low : start + high]
        if num_inputs == 1:
            for j in range(len(kept)):
                kept[j] = source[j] * scale + bias
        else:
            for j in range(len(kept)):
                kept[j] = source[num_inputs * j] * scale + bias


@inline
def _activate(row, states, codes, shift, mode, gain, slope, clamp):
    """Apply the leaky ReLU and store its states, or apply stored slopes, on one phase of a row."""
    low, high = max(0, -shift), min(len(row), len(codes) - shift)
    stored = codes[low + shift : high + shift]
    if mode == 1:
        lrelu_row_storing(row[low:high], stored, gain, slope, clamp)
        pack(states, codes)
    else:
        unpack(codes, states)
        scale_row_by_codes(row[low:high], stored, gain, slope)


@inline
def _upsample_row(fine, inputs, plan, columns):
    """Compute all phases of a fine row from all terms of the filter; term t reads `inputs[t]`."""
    for term in range(len(inputs)):
        source, taps = inputs[term], plan.taps[term]
        if plan.kind == 1 and term == 0:
            up2_from1(fine[0, :columns], fine[1, :columns], source[0], taps)
        elif plan.kind == 1:
            up2_from1_add(fine[0, :columns], fine[1, :columns], source[0], taps)
        elif plan.kind == 2:
            first, second, third = source[0], source[1], source[0, 1:]
            if term == 0:
                up2_from2(fine[0, :columns], fine[1, :columns], first, second, taps)
                up2_from2(fine[2, :columns], fine[3, :columns], second, third, taps)
            else:
                up2_from2_add(fine[0, :columns], fine[1, :columns], first, second, taps)
                up2_from2_add(fine[2, :columns], fine[3, :columns], second, third, taps)
        elif plan.kind == 3:
            up4_from1(
                fine[0, :columns], fine[1, :columns], fine[2, :columns], fine[3, :columns],
                source[0], taps,
            )  # fmt: skip
        else:
            for p in range(len(fine)):
                taps_of_phase, starts = plan.phase_taps[term, p], plan.starts[p]
                fir_row(fine[p, :columns], taps_of_phase, source, starts, term > 0)


@inline
def _downsample_row(ring, slot, fine, plan, columns, lead):
    """Downsample a fine row; phase r of term t goes to `ring[t, slot]` from column r·columns on."""
    num_phases, taps = len(fine), plan.taps
    s0 = fine[lead % num_phases, lead // num_phases :]
    s1 = fine[(lead + 1) % num_phases, (lead + 1) // num_phases :]
    s2 = fine[(lead + 2) % num_phases, (lead + 2) // num_phases :]
    s3 = fine[(lead + 3) % num_phases, (lead + 3) // num_phases :]
    for term in range(len(taps)):
        first = ring[term, slot, :columns]
        if plan.kind == 1:
            down2_of2(first, s0, s1, taps[term])
        elif plan.kind == 2:
            down2_of4(first, ring[term, slot, columns:], s0, s1, s2, s3, taps[term])
        elif plan.kind == 3:
            down4_of4(first, s0, s1, s2, s3, taps[term])
        else:
            for r in range(len(plan.starts)):
                line = ring[term, slot, r * columns : (r + 1) * columns]
                fir_row(line, plan.padded_taps[term], fine, plan.starts[r], False)


@inline
def _downsample_folded(finished, folded, window, plan, columns, lead):
    """Apply a radial filter: fine rows `window` `[12, L·width]` to one output row.

    Symmetric taps: opposite samples are added first, which halves the multiplications.
    """
    num_terms, num_phases, width = folded.shape
    flat = folded.reshape(num_terms, num_phases * width)
    for term in range(num_terms % 2 * 3, num_terms, 2):
        fold_column_two(flat[term], flat[term + 1], window, plan.column_taps[term:])
    if num_terms % 2:
        fold_column_three(flat[0], flat[1], flat[2], window, plan.column_taps)
    for term in range(num_terms):
        lines, taps, add = folded[term], plan.taps[term], term > 0
        s0 = lines[lead % num_phases, lead // num_phases :]
        s1 = lines[(lead + 1) % num_phases, (lead + 1) // num_phases :]
        if num_phases == 2:
            fold2_of2(finished[:columns], s0, s1, taps, add)
        else:
            s2 = lines[(lead + 2) % num_phases, (lead + 2) // num_phases :]
            s3 = lines[(lead + 3) % num_phases, (lead + 3) // num_phases :]
            fold2_of4(finished[:columns], finished[columns:], s0, s1, s2, s3, taps, add)


@inline
def _next_row(fine, at, num_kept):
    """Return the index of the next fine row.

    When `fine` is full, the last `num_kept` rows move to the front.
    """
    at += 1
    if at < len(fine):
        return at
    for k in range(num_kept):
        source, target = fine[at - num_kept + k], fine[k]
        for j in range(len(target)):
            target[j] = source[j]
    return num_kept


@inline
def _load_sources(work, up, column_taps, a, planes, affine, first_input, stride):
    """Load the input rows that fine row `a` reads into their slots, and set the taps by slot."""
    work.row_taps[:] = 0
    k = -a % up
    source = (a + k) // up
    while k < column_taps.shape[1]:
        if 0 <= source < planes.shape[1]:
            slot = source % len(work.rows)
            for term in range(len(column_taps)):
                work.row_taps[term, slot] = column_taps[term, k]
            if work.row_of[slot] != source:
                work.row_of[slot] = source
                for i in range(len(planes)):
                    line, start = planes[i, source], i * stride
                    _load_row(work.rows[slot], line, affine[i], first_input, start, stride)
        k += up
        source += 1


@inline
def _store_row(planes, row, finished, columns, stride, num_outputs):
    """Interleave the phases in `finished` into the output rows of all planes of the group."""
    for i in range(len(planes)):
        target, start = planes[i, row], i * stride
        if num_outputs == 2:
            odd = finished[columns + start : columns + start + stride]
            _interleave2(target, finished[start : start + stride], odd)
        else:
            for r in range(num_outputs):
                source = finished[r * columns + start : r * columns + start + stride]
                _interleave(target[r:], source, num_outputs)


@inline
def run_groups(first, last, x, affine, y, states, up_plan, down_plan, work, grid, activation):
    """Compute groups first..last−1 of planes of `x` `[planes, H, W]` into `y` `[planes, H', W']`.

    The planes of a group lie side by side, `stride` columns apart, in each row of `work`. `affine`
    `[planes, 2]` holds scale and bias per plane. Allocates nothing.
    """
    up, down, pad_top, lead, first_input, group, stride, middle_h, offset_x, offset_y, mode = grid
    gain, slope, clamp = activation
    num_rows, num_phases, width = work.fine.shape
    columns = len(work.codes)
    num_outputs = num_phases // down
    num_slots = len(down_plan.slot_taps)
    flat_rows = work.rows.reshape(len(work.rows), work.rows.shape[1] * work.rows.shape[2])
    flat_fine = work.fine.reshape(num_rows, num_phases * width)
    flat_inputs = work.inputs.reshape(len(work.inputs), flat_rows.shape[1])
    for index in range(first, last):
        planes = x[index * group : (index + 1) * group]
        results = y[index * group : (index + 1) * group]
        work.row_of[:] = -1
        work.rows[:] = 0
        at = 0  # current row of `work.fine`
        for m in range(middle_h):
            _load_sources(
                work, up, up_plan.column_taps, m - pad_top, planes, affine[index * group :],
                first_input, stride,
            )  # fmt: skip
            for term in range(len(flat_inputs)):
                fir_column(flat_inputs[term], work.row_taps[term], flat_rows, False)
            fine = work.fine[at]
            _upsample_row(fine, work.inputs, up_plan, columns)
            stored_y = m + offset_y
            known = mode != 0 and 0 <= stored_y < states.shape[1]
            for p in range(num_phases):
                row = fine[p, :columns]
                if mode == 0:
                    lrelu_row(row, gain, slope, clamp)
                elif known:
                    stored_x = p - lead + offset_x
                    stored = states[index, stored_y, stored_x % num_phases]
                    shift = stored_x // num_phases
                    _activate(row, stored, work.codes, shift, mode, gain, slope, clamp)
            if down_plan.kind != COLUMNS_FIRST:
                _downsample_row(work.ring, m % num_slots, fine, down_plan, columns, lead)
            # Downsample vertically as soon as the last row that an output reads is ready.
            done = m - num_slots + 1
            if done >= 0 and done % down == 0 and done // down < y.shape[1]:
                if down_plan.kind == COLUMNS_FIRST:
                    window = flat_fine[at - num_slots + 1 : at + 1]
                    _downsample_folded(work.finished, work.folded, window, down_plan, columns, lead)
                else:
                    for term in range(len(work.ring)):
                        taps = down_plan.slot_taps[done % num_slots, term]
                        fir_column(work.finished, taps, work.ring[term], term > 0)
                _store_row(results, done // down, work.finished, columns, stride, num_outputs)
            if num_rows > 1:
                at = _next_row(flat_fine, at, num_slots - down)
