"""SimVQ, codes of another width, and the rotation trick."""

import keras
import numpy as np
import pytest
from codebook import nearest, normal, numbers, place, quantizer
from keras import ops

from keras_mmai import layers
from keras_mmai.layers.quantizers.vector import rotated


def test_simvq_looks_up_the_mapped_codes(forward):
    """The official `get_codebook_entry` gives codes that are not mapped."""
    layer = layers.SimVQ(16, 4, seed=0)
    layer.build((None, 4))
    layer.map.kernel.assign(normal(4, 4))
    layer.map.bias.assign(normal(4))
    codes = numbers(layer.basis) @ normal(4, 4) + normal(4)
    z = normal(30, 4)
    output = forward(layer, {"z": z})
    index = nearest(z, codes)
    np.testing.assert_array_equal(output["codes"], index)
    np.testing.assert_allclose(output["quantized"], codes[index], atol=1e-5)
    np.testing.assert_allclose(layer.lookup(output["codes"]), codes[index], atol=1e-5)


def test_one_step_of_simvq_moves_every_code(gradients):
    layer, z = layers.SimVQ(64, 4, seed=0), normal(3, 4)
    layer.build((None, 4))
    assert [v.name for v in layer.trainable_variables] == ["kernel", "bias"]  # the codes themselves are not learned
    before = numbers(layer.codes).copy()
    _, (_, kernel, bias) = gradients(lambda z: layer(z)["losses"]["codebook"], [z], layer.trainable_variables)
    layer.map.kernel.assign(layer.map.kernel - 0.1 * kernel)
    layer.map.bias.assign(layer.map.bias - 0.1 * bias)
    assert (np.abs(numbers(layer.codes) - before).max(-1) > 1e-5).all()


def test_simvq_keeps_up_with_latents_that_grow(gradients):
    """It begins with the paper's codes, but a step of Adam, of one size in every weight, moves them far enough."""
    layer = layers.SimVQ(64, 64, seed=0)
    layer.build((None, 64))
    before = numbers(layer.codes).copy()
    np.testing.assert_allclose(before.std(), 64**-0.5, rtol=0.05)
    _, (_, kernel, _) = gradients(
        lambda z: layer(z)["losses"]["codebook"], [5 * normal(30, 64)], layer.trainable_variables
    )
    layer.map.kernel.assign(layer.map.kernel - 3e-4 * np.sign(kernel))
    assert np.abs(numbers(layer.codes) - before).mean() > 30 * 3e-4


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_codes_of_another_width(distance, forward, gradients):
    layer = layers.VectorQuantizer(8, 6, code_dim=2, distance=distance, initialization="uniform", revival_threshold=0)
    layer.build((None, 6))
    place(layer, normal(8, 2))
    z = normal(20, 6)
    output = forward(layer, {"z": z})
    rows = numbers(layer.project_in(z))
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True) if distance == "cosine" else rows
    codes = numbers(layer.codes)
    index = nearest(rows, codes)
    assert codes.shape == (8, 2)
    np.testing.assert_array_equal(output["codes"], index)
    np.testing.assert_allclose(output["quantized"], numbers(layer.project_out(codes[index])), atol=1e-6)
    np.testing.assert_allclose(layer.lookup(output["codes"]), output["quantized"], atol=1e-6)
    np.testing.assert_allclose(output["losses"]["commitment"], 0.25 * np.mean((rows - codes[index]) ** 2), rtol=1e-5)
    _, (by_z, *by_projections) = gradients(
        lambda z: ops.sum(layer(z)["quantized"] ** 2), [z], layer.trainable_variables
    )
    assert len(by_projections) == 4 and np.abs(by_z).max() > 1e-3
    assert all(np.abs(g).max() > 1e-3 for g in by_projections)


def test_the_rotation_gives_its_gradient_and_the_exact_code(gradients):
    z, e, pull = normal(50, 4), normal(50, 4, seed=1), normal(50, 4, seed=2)
    _, (found,) = gradients(lambda z: ops.sum(rotated(z, ops.convert_to_tensor(e)) * ops.convert_to_tensor(pull)), [z])
    for row in range(50):
        a, b = (x[row].astype("float64") for x in (z, e))
        u, v = a / np.linalg.norm(a), b / np.linalg.norm(b)
        # the rotation in the plane of u and v, by its definition
        w = v - (u @ v) * u
        w /= np.linalg.norm(w)
        cos, sin = u @ v, np.sqrt(1 - (u @ v) ** 2)
        turn = np.eye(4) + (cos - 1) * (np.outer(u, u) + np.outer(w, w)) + sin * (np.outer(w, u) - np.outer(u, w))
        matrix = np.linalg.norm(b) / np.linalg.norm(a) * turn
        np.testing.assert_allclose(matrix @ a, b, atol=1e-10)
        np.testing.assert_allclose(found[row], matrix.T @ pull[row], atol=1e-3)
    value = rotated(ops.convert_to_tensor(z), ops.convert_to_tensor(e))
    np.testing.assert_array_equal(value, e)


def test_a_quantizer_rotates_its_gradient_where_asked_to(gradients):
    z, pull = normal(20, 4), ops.convert_to_tensor(normal(20, 4, seed=1))
    layer = quantizer(gradient="rotation")
    chosen = numbers(layer.codes)[numbers(layer(z)["codes"])]
    _, (found,) = gradients(lambda z: ops.sum(layer(z)["quantized"] * pull), [z])
    _, (expected,) = gradients(lambda z: ops.sum(rotated(z, ops.convert_to_tensor(chosen)) * pull), [z])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - numbers(pull)).max() > 0.1  # which would be straight through


def test_the_rotation_has_no_holes(gradients):
    """Latents of zero, latents opposite to their code and codes of zero: exact, and straight through."""
    e = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], "float32")
    z = np.array([[0, 0], [-1, 0], [1e-6, 0], [1, 1]], "float32")
    np.testing.assert_array_equal(rotated(ops.convert_to_tensor(z), ops.convert_to_tensor(e)), e)
    _, (found,) = gradients(lambda z: ops.sum(rotated(z, ops.convert_to_tensor(e))), [z])
    np.testing.assert_allclose(found, 1.0)  # straight through


def test_bfloat16_with_rotation_is_exact():
    layer = quantizer(gradient="rotation", dtype="bfloat16")
    z = ops.cast(10 * normal(20, 4), "bfloat16")
    output = layer(z)
    expected = ops.cast(layer.lookup(output["codes"]), "bfloat16")
    np.testing.assert_array_equal(*(numbers(ops.cast(x, "float32")) for x in (output["quantized"], expected)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.SimVQ(32, 4, seed=0),
        lambda: layers.VectorQuantizer(32, 4, gradient="rotation", code_dim=3, decay=0.8, seed=0),
        lambda: layers.FiniteScalarQuantizer((5, 5), 4),
        lambda: layers.LookupFreeQuantizer(8, 4, temperature=1.0),
    ],
)
def test_every_kind_learns_inside_fit(make, fit):
    """Latents in eight groups: after `fit` groups have codes of their own."""
    centres = 2 * normal(8, 4, seed=3)
    z = np.tile(centres, (32, 1)) + 0.02 * normal(256, 4)
    layer = make()
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, kernel_initializer="identity")(inputs)
    outputs = keras.layers.Dense(4, kernel_initializer="identity")(layer(hidden)["quantized"])
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    before = float(numbers(model.evaluate(z, z, verbose=0)))
    fit(model, z, z, batch_size=64, epochs=30)
    codes = numbers(layer(numbers(keras.Model(inputs, hidden).predict(z, verbose=0)))["codes"])
    assert len(np.unique(codes)) >= 6
    assert float(numbers(model.evaluate(z, z, verbose=0))) < 0.5 * before
