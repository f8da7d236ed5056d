import itertools

import numpy as np
import pytest
from codebook import normal, numbers, unit
from keras import ops

from keras_mmai import layers
from keras_mmai.layers.quantizers.lookup_free import bit_entropies


def test_signs_are_bits_the_first_one_lowest(forward):
    layer = layers.LookupFreeQuantizer(3)
    z = np.array([[0.2, -3, -1], [-1, 5, 0.1], [0, 0, 0], [1, 1, 1]], "float32")
    output = forward(layer, {"z": z})
    np.testing.assert_array_equal(output["codes"], [1, 6, 0, 7])
    np.testing.assert_array_equal(output["quantized"], [[1, -1, -1], [-1, 1, 1], [-1, -1, -1], [1, 1, 1]])
    np.testing.assert_allclose(
        output["losses"]["commitment"], 0.25 * np.mean((z - numbers(output["quantized"])) ** 2), rtol=1e-6
    )
    assert [v.name for v in layer.weights] == ["uses"]  # no codebook
    np.testing.assert_array_equal(layer.lookup(output["codes"]), output["quantized"])


def test_spherical_latents_and_codes_have_unit_length(forward, gradients):
    layer = layers.LookupFreeQuantizer(5, spherical=True)
    z = 10 * normal(20, 5)
    output = forward(layer, {"z": z})
    np.testing.assert_allclose(np.linalg.norm(output["quantized"], axis=-1), 1.0, rtol=1e-6)
    error = np.mean((unit(z) - np.sign(z) / np.sqrt(5)) ** 2)
    np.testing.assert_allclose(output["losses"]["commitment"], 0.25 * error, rtol=1e-5)
    # straight through to the direction of z: no gradient along z itself
    pull = ops.convert_to_tensor(normal(20, 5, seed=1))
    _, (found,) = gradients(lambda z: ops.sum(layer(z)["quantized"] * pull), [z])
    np.testing.assert_allclose((found * z).sum(-1), 0.0, atol=1e-4)
    assert np.abs(found).max() > 1e-3


def all_codes(d):
    return np.array([code[::-1] for code in itertools.product([-1.0, 1.0], repeat=d)])


@pytest.mark.parametrize("d", [1, 2, 5, 8])
@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("spherical", [False, True])
def test_entropies_equal_those_over_all_codes(d, temperature, spherical, gradients):
    layer = layers.LookupFreeQuantizer(
        d, spherical=spherical, temperature=temperature, entropy_weight=0.7, diversity_weight=1.3
    )
    layer.build((None, d))
    z, valid = 0.3 * normal(40, d), np.arange(40) < 33
    value, (found,) = gradients(lambda z: layer(z, mask=ops.convert_to_tensor(valid))["losses"]["entropy"], [z])

    def naive(z):
        rows = (unit(z) if spherical else z)[valid]
        logits = 2 * rows @ all_codes(d).T * (d**-0.5 if spherical else 1.0) / temperature
        logits -= logits.max(-1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        each = -np.sum(p * np.log(p + 1e-300), axis=-1).mean()
        mean = p.mean(0)
        return 0.7 * (each - 1.3 * -np.sum(mean * np.log(mean + 1e-300)))

    z = z.astype("float64")
    np.testing.assert_allclose(value, naive(z), rtol=1e-4, atol=1e-6)
    assert not found[33:].any()
    for row, column in ((0, 0), (7, d - 1), (32, d // 2)):
        step = np.zeros_like(z)
        step[row, column] = 1e-5
        numeric = (naive(z + step) - naive(z - step)) / 2e-5
        np.testing.assert_allclose(found[row, column], numeric, rtol=2e-3, atol=1e-5)


def test_entropies_of_certain_and_of_even_bits():
    certain = ops.convert_to_tensor(1000 * (2 * (np.arange(256)[:, None] >> np.arange(8) & 1) - 1).astype("float32"))
    each, overall = bit_entropies(certain, ops.ones((256,), dtype="bool"))  # each of the 256 codes once
    np.testing.assert_allclose([float(each), float(overall)], [0.0, np.log(256)], atol=1e-4)
    each, overall = bit_entropies(ops.zeros((4, 8)), ops.ones((4,), dtype="bool"))
    np.testing.assert_allclose([float(each), float(overall)], [np.log(256)] * 2, rtol=1e-5)


def test_training_by_entropy_uses_all_codes(fit):
    """Latents that all have one code spread over the codes when nothing but the entropy loss trains them."""
    import keras

    inputs = keras.Input((4,))
    layer = layers.LookupFreeQuantizer(4, entropy_weight=1.0, commitment_weight=0.1, temperature=1.0)
    # the quantized output is there, and weighs nothing
    start = keras.layers.Dense(4, bias_initializer="ones", kernel_initializer=keras.initializers.RandomNormal(0.1))
    model = keras.Model(inputs, layer(start(inputs))["quantized"] * 0.0)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    x = normal(256, 4)
    before = len(np.unique(layer(start(x))["codes"]))
    fit(model, x, 0 * x, batch_size=64, epochs=30)
    assert before <= 4 and len(np.unique(layer(start(x))["codes"])) == 16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_bits=0), "`num_bits` and `temperature` must be positive. Received: num_bits=0"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(num_bits=25), r"at most 2\*\*24 codes.*num_bits=25.*`GroupedQuantizer`"),
    ],
)
def test_bad_arguments_of_a_lookup_free_quantizer(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.LookupFreeQuantizer(**arguments)
