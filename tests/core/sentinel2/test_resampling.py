import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.sentinel2.resampling import axis_taps, resample


def dense(inputs, outputs):
    """Return the axis as an (outputs, inputs) matrix."""
    taps = axis_taps(inputs, outputs, 0, outputs)
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        np.add.at(matrix[row], taps.index[row] + taps.start, taps.weight[row])
    return matrix


def literal_area(inputs, outputs):
    edges_in, edges_out = np.arange(inputs + 1), np.linspace(0, inputs, outputs + 1)
    low = np.maximum(edges_in[None, :-1], edges_out[:-1, None])
    high = np.minimum(edges_in[None, 1:], edges_out[1:, None])
    overlap = np.clip(high - low, 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_weights(inputs, outputs):
    matrix = dense(inputs, outputs)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert (matrix >= 0).all()
    if outputs < inputs:
        np.testing.assert_allclose(matrix, literal_area(inputs, outputs), atol=1e-8)
    if outputs == inputs:
        np.testing.assert_array_equal(matrix, np.eye(inputs))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 100), st.integers(1, 4), st.data())
def test_a_part_of_an_axis_needs_only_its_own_inputs(inputs, factor, data):
    outputs = data.draw(st.integers(1, inputs * factor))
    start = data.draw(st.integers(0, outputs - 1))
    count = data.draw(st.integers(1, outputs - start))
    taps = axis_taps(inputs, outputs, start, count)
    assert 0 <= taps.start < taps.stop <= inputs
    assert taps.stop - taps.start <= np.ceil(count * inputs / outputs) + 3
    whole = axis_taps(inputs, outputs, 0, outputs)
    np.testing.assert_array_equal(taps.weight, whole.weight[start : start + count])
    np.testing.assert_array_equal(taps.index + taps.start, whole.index[start : start + count] + whole.start)


def test_bilinear_interpolates_a_line_exactly_and_clamps():
    position = dense(10, 30) @ np.arange(10.0)
    np.testing.assert_allclose(position, np.clip((np.arange(30) + 0.5) / 3 - 0.5, 0, 9), atol=1e-12)


@pytest.mark.parametrize(("rows", "cols"), [(4, 5), (7, 3), (12, 30)])
def test_both_axes_agree_with_matrices(rows, cols):
    rng = np.random.default_rng(0)
    values = rng.random((2, 8, 10)).astype(np.float32)
    valid = rng.random((8, 10)) < 0.7
    out, good = resample(values, valid, axis_taps(8, rows, 0, rows), axis_taps(10, cols, 0, cols))
    tall, wide = dense(8, rows), dense(10, cols)
    share = tall @ valid @ wide.T
    np.testing.assert_array_equal(good, share >= 0.5 - 1e-9)
    expected = np.einsum("ri,bij,cj->brc", tall, np.where(valid, values, 0), wide) / np.maximum(share, 1e-9)
    np.testing.assert_allclose(out, np.where(good, expected, 0), rtol=1e-6, atol=1e-9)
