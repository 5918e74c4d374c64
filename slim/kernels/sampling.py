"""From logits to a token, and what the model thought of it: a few passes over a row that lies in the L1 cache.

No filter sorts. Each keeps the largest of p up to a cut, and the cut is found by halving the range of bit patterns, which for
positive floats are in the order of the numbers: at most 31 sums over the row. Of equals the first ones stay, so the outcome
does not depend on an algorithm's whims.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from slim.kernels import INSIDE, INSIDE_SUM, SERIAL
from slim.kernels.elementary import EXP_LOWEST, exp, row_max, row_sum

LARGEST = np.float32(3.4028235e38)
ZERO, ONE = np.float32(0.0), np.float32(1.0)
BLOCK = 64  # of p that one sum stands for while the drawn token is looked for

# Columns of `measures`.
LOGPROB, ENTROPY, MARGIN, BEST = range(4)


@njit(**INSIDE)
def _exp_row(e, x, shift, scale):
    """e = exp((x - shift) * scale), 0 where that is too small to matter; the slices keep the loop vector code."""
    n = x.size
    out, row = e[:n], x[:n]
    for i in range(n):
        value = (row[i] - shift) * scale
        out[i] = exp(value) if value >= EXP_LOWEST else ZERO


@njit(**INSIDE_SUM)
def _count_and_sum_from(p, bits, cut):
    """How many of p have at least the bits `cut`, and their sum."""
    count, total = np.int32(0), ZERO
    for i in range(bits.size):
        if bits[i] >= cut:
            count += np.int32(1)
            total += p[i]
    return count, total


@njit(**INSIDE_SUM)
def _weighted_sum(e, x, shift):
    """Sum of e * (x - shift), where e is not zero."""
    total = ZERO
    for i in range(x.size):
        # 0 * -inf would be NaN: a token that cannot be drawn adds nothing
        total += e[i] * max(x[i] - shift, np.float32(-1e4))
    return total


@njit(**INSIDE_SUM)
def _count_above(x, n, value):
    """How many of x[:n] are greater than `value`."""
    row, count = x[:n], np.int32(0)
    for i in range(n):
        count += np.int32(row[i] > value)
    return count


@njit(**INSIDE_SUM)
def _count_equal(x, n, value):
    """How many of x[:n] are `value`."""
    row, count = x[:n], np.int32(0)
    for i in range(n):
        count += np.int32(row[i] == value)
    return count


@njit(**INSIDE_SUM)
def _count_damaged(x):
    """How many of x are NaN or +infinity."""
    count = np.int32(0)
    for i in range(x.size):
        count += np.int32(not x[i] <= LARGEST)
    return count


@njit(**INSIDE)
def _first(x, value):
    """Where x is `value` first, 0 if nowhere."""
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        if _count_equal(block, block.size, value):
            for i in range(block.size):
                if block[i] == value:
                    return start + i
    return 0


@njit(**INSIDE)
def _clear_below(p, least):
    """Clear what is less than `least`."""
    for i in range(p.size):
        if p[i] < least:
            p[i] = ZERO


@njit(**INSIDE)
def _keep_until(p, bits, goal, of_sum):
    """Keep the fewest largest of p that reach the `goal` in sum, or in count; of equals the first ones."""
    low, high = np.int32(1), np.int32(0x3F800001)  # the largest of p is 1
    count, count_above, total_above = np.int32(bits.size), np.int32(0), ZERO
    while high - low > 1 and count - count_above > 1:
        middle = np.int32(low + (high - low) // 2)
        seen, held = _count_and_sum_from(p, bits, middle)
        if (held if of_sum else np.float32(seen)) >= goal:
            low, count = middle, seen
        else:
            high, count_above, total_above = middle, seen, held
    for i in range(bits.size):
        p[i] = p[i] if bits[i] >= low else ZERO
    if high - low == 1:  # all between the two are equal: as many of them as it takes
        missing = (goal - total_above) / p[_first(bits, low)] if of_sum else goal - np.float32(count_above)
        left = max(np.int32(np.ceil(missing)), np.int32(1))
        for i in range(bits.size):
            if bits[i] == low:
                if left <= 0:
                    p[i] = ZERO
                left -= 1


@njit(**INSIDE)
def _pick(p, u):
    """The first token at which the sums along p pass u of the whole, and its share of the whole."""
    total = ZERO
    for start in range(0, p.size, BLOCK):
        total += row_sum(p, start, min(BLOCK, p.size - start))
    goal, before, last = u * total, ZERO, 0
    for start in range(0, p.size, BLOCK):
        stop = min(start + BLOCK, p.size)
        block = row_sum(p, start, stop - start)
        if block > ZERO and before + block > goal:
            for i in range(start, stop):
                if p[i] > ZERO:
                    before += p[i]
                    last = i
                    if before > goal:
                        break
            return last, p[last] / total  # rounding may leave the goal behind the block: then it is its last
        before += block
    for i in range(p.size):  # u rounds up to the whole
        if p[i] > ZERO:
            last = i
    return last, p[last] / total


@njit(**SERIAL)
def sample_rows(ids, shares, logits, recent, scores, p, u, temperature, top_k, top_p, min_p, penalty):
    """ids (N,) int32 =   shares (N,) = the probability they were drawn with   logits (N, V)   scores, p (V,) scratch

    recent (N, W) int32: ids that the repetition penalty looks at, -1 for none   u (N,) in [0, 1): what decides
    An id is -1 where the logits are no numbers. Order as in Hugging Face's: penalty, temperature, top-k, top-p, min-p.
    """
    bits = p.view(np.int32)
    for n in range(logits.shape[0]):
        row = logits[n]
        for i in range(row.size):
            scores[i] = row[i]
        if penalty != ONE:
            for j in range(recent.shape[1]):
                token = recent[n, j]
                if token >= 0:
                    x = row[token]  # of the logits: an id that occurs twice is penalised once
                    scores[token] = x / penalty if x > ZERO else x * penalty
        largest = row_max(scores, 0, scores.size)
        ids[n], shares[n] = np.int32(_first(scores, largest)), ONE
        if _count_damaged(row) or not largest >= -LARGEST:
            ids[n] = -1
        elif temperature > ZERO:
            _exp_row(p, scores, largest, ONE / temperature)
            if 0 < top_k < _count_and_sum_from(p, bits, np.int32(1))[0]:
                _keep_until(p, bits, np.float32(top_k), False)
            if top_p < ONE:
                _keep_until(p, bits, top_p * row_sum(p, 0, p.size), True)
            if min_p > ZERO:
                _clear_below(p, min_p)  # the largest of p is 1
            token, shares[n] = _pick(p, u[n])
            ids[n] = np.int32(token)


@njit(**SERIAL)
def measure_rows(measures, ranks, logits, ids, e):
    """measures (N, 4) =   ranks (N,) int32 =   of ids (N,) int32 under logits (N, V) at temperature 1   e (V,) scratch

    Columns of measures: the log of the id's probability; the entropy in nats; the largest probability minus
    the second; the log of the largest probability. A rank counts the ids that are more probable, or as probable and smaller.
    """
    for n in range(logits.shape[0]):
        row, token = logits[n], ids[n]
        V, value = row.size, row[token]
        largest = row_max(row, 0, V)
        best = _first(row, largest)
        _exp_row(e, row, largest, ONE)
        total = row_sum(e, 0, V)
        log_total = np.log(total)
        ranks[n] = _count_above(row, V, value) + _count_equal(row, token, value)
        measures[n, LOGPROB] = (value - largest) - log_total
        measures[n, BEST] = -log_total
        measures[n, ENTROPY] = max(log_total - _weighted_sum(e, row, largest) / total, ZERO)
        e[best] = ZERO
        second = row_max(e, 0, V) if V > 1 else ZERO
        measures[n, MARGIN] = (ONE - second) / total
