import numpy as np
import pytest
from keras import ops

from keras_mmai import layers

pytestmark = pytest.mark.usefixtures("numpy_initializers")


def test_sinusoids_equal_the_dit_code(diffusion_fixtures):
    golden = diffusion_fixtures("d_embeddings")
    for dim in (256, 64, 33):
        np.testing.assert_allclose(layers.timestep_embedding(golden["t"], dim), golden[f"timestep_D{dim}"], atol=1e-4)
    slow = layers.timestep_embedding(golden["t"], 256, max_period=1000.0)
    np.testing.assert_allclose(slow, golden["timestep_D256_maxperiod1000"], atol=1e-4)


def test_sinusoids_of_zero_and_of_odd_width():
    np.testing.assert_array_equal(layers.timestep_embedding(np.zeros(1, "float32"), 5), [[1, 1, 0, 0, 0]])


def test_time_scale_is_a_factor_on_time():
    scaled, raw = layers.TimestepEmbedding(8, time_scale=1000.0), layers.TimestepEmbedding(8, time_scale=1.0)
    t = np.array([0.125, 0.5], "float32")
    scaled(t), raw(t)
    raw.set_weights(scaled.get_weights())
    np.testing.assert_allclose(scaled(t), raw(1000 * t), atol=1e-6)


def test_low_precision_tells_neighbouring_steps_apart():
    layer = layers.TimestepEmbedding(32, dtype="mixed_bfloat16")
    t = np.array([516 / 1000, 517 / 1000], "float32")
    layer.build((None,))
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    low = np.asarray(ops.convert_to_numpy(ops.cast(layer(t), "float32")))
    exact = layers.TimestepEmbedding(32, dtype="float32")
    exact.build((None,))
    exact.set_weights(layer.get_weights())
    high = ops.convert_to_numpy(exact(t))
    assert np.abs(high[0] - high[1]).max() > 0.1
    np.testing.assert_allclose(low[0] - low[1], high[0] - high[1], atol=0.05)


def test_labels_are_dropped_at_the_rate_and_in_training_only(forward):
    layer = layers.LabelEmbedding(3, 4, dropout=0.3, seed=0)
    layer.build((None,))
    table = np.arange(16, dtype="float32").reshape(4, 4)
    layer.table.embeddings.assign(table)
    labels = np.tile(np.arange(3, dtype="int32"), 2000)
    np.testing.assert_array_equal(forward(layer, {"labels": labels}), table[labels])
    first, second = (ops.convert_to_numpy(forward(layer, {"labels": labels}, training=True)) for _ in range(2))
    dropped = first[:, 0] == table[3, 0]
    for label in range(3):  # 5 standard deviations of a mean over 2000
        assert abs(dropped[labels == label].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    np.testing.assert_array_equal(first[~dropped], table[labels[~dropped]])
    assert (first != second).any()  # each batch has draws of its own


@pytest.mark.parametrize("dropout, rows", [(0.0, [0, 1]), (1.0, [2, 2])])
def test_never_and_always(dropout, rows):
    layer = layers.LabelEmbedding(2, 3, dropout=dropout)
    output = layer(np.array([0, 1], "int32"), training=True)
    table = ops.convert_to_numpy(layer.table.embeddings)
    np.testing.assert_array_equal(output, table[rows])


def test_dropout_is_a_probability():
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]. Received: dropout=1.5"):
        layers.LabelEmbedding(2, 3, dropout=1.5)
