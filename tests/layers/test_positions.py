import numpy as np
import pytest
from keras import ops

from keras_mmai import layers


def test_sincos_equals_the_dit_code(diffusion_fixtures):
    golden = diffusion_fixtures("d_embeddings")
    for dim, side in ((64, 4), (48, 8), (32, 3)):
        ours = layers.sincos_positions((side, side), dim)
        np.testing.assert_allclose(ours, golden[f"pos2d_D{dim}_G{side}"], atol=1e-12)
    np.testing.assert_allclose(layers.sincos_positions((10,), 32), golden["pos1d_D32"], atol=1e-12)
    rows = layers.sincos_positions((16, 16), 1152)[[0, 1, 16, 255]]
    np.testing.assert_allclose(rows, golden["pos2d_D1152_G16_rows"], atol=1e-12)


@pytest.mark.parametrize("grid, dim", [((5,), 6), ((2, 3), 10), ((2, 3, 2), 20)])
def test_every_place_has_its_own_row(grid, dim):
    table = layers.sincos_positions(grid, dim)
    assert table.shape == (np.prod(grid), dim) and table.dtype == np.float64
    distances = np.abs(table[:, None] - table[None]).max(-1) + np.eye(len(table))
    assert distances.min() > 1e-3


def test_first_half_of_the_channels_is_the_column():
    table = layers.sincos_positions((3, 4), 8).reshape(3, 4, 8)
    assert np.ptp(table[..., :4], axis=0).max() == 0  # does not change from row to row
    assert np.ptp(table[..., 4:], axis=1).max() == 0


def test_rotary_tables_equal_lightningdit(diffusion_fixtures):
    """Same pairs (2i, 2i + 1) and the row in the first half of a head, as `VisionRotaryEmbeddingFast`."""
    golden = diffusion_fixtures("h_lightningdit_full")
    cos, sin = layers.rotary_tables((6, 6), 12)
    np.testing.assert_allclose(cos, golden["rope_cos"], atol=1e-6)
    np.testing.assert_allclose(sin, golden["rope_sin"], atol=1e-6)
    assert cos.dtype == sin.dtype == np.float32


@pytest.mark.parametrize("grid, dim", [((9,), 6), ((3, 4), 10), ((3, 2, 3), 14)])
def test_scores_depend_on_offsets_only(grid, dim):
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.normal(size=dim), (1, np.prod(grid), 1, dim)).astype("float32") for _ in range(2))
    q, k = (
        ops.convert_to_numpy(layers.apply_rotary(ops.convert_to_tensor(v), *layers.rotary_tables(grid, dim)))
        for v in (q, k)
    )
    scores = np.einsum("bnhd,bmhd->nm", q, k)
    places = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), axis=-1)
    by_offset = {}
    for i, j in np.ndindex(scores.shape):
        by_offset.setdefault(tuple(places[i] - places[j]), []).append(scores[i, j])
    assert max(np.ptp(values) for values in by_offset.values()) < 1e-5
    means = [np.mean(values) for values in by_offset.values()]
    assert np.std(means) > 0.1  # and they do depend on them


def test_rotation_keeps_lengths_and_dtype():
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 8)).astype("float32")
    turned = layers.apply_rotary(ops.convert_to_tensor(x), *layers.rotary_tables((6,), 8))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    half = layers.apply_rotary(ops.cast(ops.convert_to_tensor(x), "bfloat16"), *layers.rotary_tables((6,), 8))
    assert "bfloat16" in str(half.dtype)


@pytest.mark.parametrize("grid, dim", [((4,), 5), ((2, 2), 2)])
@pytest.mark.parametrize("make", [layers.sincos_positions, layers.rotary_tables])
def test_width_that_can_not_hold_the_axes(make, grid, dim):
    with pytest.raises(ValueError, match=f"A width of {dim} can't hold positions on {len(grid)} axes"):
        make(grid, dim)
