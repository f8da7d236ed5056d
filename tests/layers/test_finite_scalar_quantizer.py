import numpy as np
import pytest
from codebook import normal, numbers
from keras import ops

from keras_mmai import layers


def test_numbers_of_the_reference_implementation(forward):
    layer = layers.FiniteScalarQuantizer((8, 5, 5, 5))
    z = np.array([[0.3, -0.7, 1.2, -2.0], [0, 0, 0, 0], [5, 5, 5, 5], [-5, -5, -5, -5]], "float32")
    output = forward(layer, {"z": z})
    np.testing.assert_array_equal(output["codes"], [173, 500, 999, 0])
    np.testing.assert_allclose(numbers(output["quantized"])[0], [0.25, -0.5, 1.0, -1.0])
    assert output["losses"] == {} and layer.vocabulary == 1000
    assert [v.name for v in layer.weights] == ["uses"]  # no codebook


@pytest.mark.parametrize("levels", [(2,), (3,), (8, 5, 5, 5), (15, 15, 15), (13, 11, 9, 7), (2, 2, 1000)])
def test_codes_are_counted_without_a_gap(levels):
    """Codes through bfloat16 and a product of floats gave peers wrong numbers for a third of these grids."""
    layer = layers.FiniteScalarQuantizer(levels)
    layer.build((None, len(levels)))
    codes = np.arange(layer.vocabulary)
    vectors = numbers(layer.lookup(codes))
    assert len(np.unique(vectors, axis=0)) == layer.vocabulary and vectors.min() == -1 and vectors.max() <= 1
    first = numbers(layer.lookup(np.arange(levels[0])))  # the first channel is the fastest
    assert (np.diff(first[:, 0]) > 0).all() and (first[:, 1:] == -1).all()
    # latents far from the borders of the cells give back their code: the inverse of the bound
    levels = np.array(levels)
    reach, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2, 0.0, 0.5)
    digits = vectors * (levels // 2)
    z = np.arctanh((digits + offset) / reach) - np.arctanh(offset / reach)
    np.testing.assert_array_equal(layer(z.astype("float32"))["codes"], codes)
    if len(codes) < 10_000:
        low = layers.FiniteScalarQuantizer(levels, dtype="bfloat16")
        np.testing.assert_array_equal(low(ops.cast(z, "float32"))["codes"], codes)


@pytest.mark.parametrize("levels", [(15, 15, 15), (13, 11, 9, 7)])
def test_latents_in_bfloat16_are_rounded_once(levels, forward):
    z = ops.cast(2 * normal(5000, len(levels)), "bfloat16")
    low, full = layers.FiniteScalarQuantizer(levels, dtype="bfloat16"), layers.FiniteScalarQuantizer(levels)
    output = forward(full, {"z": ops.cast(z, "float32")})
    np.testing.assert_array_equal(forward(low, {"z": z})["codes"], output["codes"])
    np.testing.assert_array_equal(low.lookup(output["codes"]), output["quantized"])


def test_every_level_is_reached(forward):
    layer = layers.FiniteScalarQuantizer((2, 7, 64))
    z = np.repeat(np.linspace(-8, 8, 4001, dtype="float32")[:, None], 3, axis=1)
    values = numbers(forward(layer, {"z": z})["quantized"])
    assert [len(np.unique(column)) for column in values.T] == [2, 7, 64]


def test_the_gradient_is_that_of_the_bound(gradients):
    layer = layers.FiniteScalarQuantizer((5, 4))
    layer.build((None, 2))
    z, pull = normal(6, 2), normal(6, 2, seed=1)
    _, (found,) = gradients(lambda z: ops.sum(layer(z)["quantized"] * ops.convert_to_tensor(pull)), [z])
    levels = np.array([5, 4])
    reach, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2, 0.0, 0.5)
    slope = reach / np.cosh(z + np.arctanh(offset / reach)) ** 2 / (levels // 2)
    np.testing.assert_allclose(found, pull * slope, rtol=1e-4)


@pytest.mark.parametrize("levels", [(), (1, 5), (5, 1001)])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match=r"`levels` are one or more ints in 2..1000. Received: \("):
        layers.FiniteScalarQuantizer(levels)


def test_too_many_codes():
    with pytest.raises(ValueError, match=r"at most 2\*\*24 codes.*levels=\(300, 300, 300\).*`GroupedQuantizer`"):
        layers.FiniteScalarQuantizer((300, 300, 300))


def test_a_saturated_latent_comes_back(gradients):
    """Beyond the outermost level the gradient that leads outwards vanishes, and the one that leads back does not."""
    layer = layers.FiniteScalarQuantizer((4, 4))
    z = np.array([[30.0, 0.3], [-30.0, 0.3]], "float32")
    for sign in (1.0, -1.0):
        _, (found,) = gradients(lambda z, sign=sign: sign * ops.sum(layer(z)["quantized"]), [z])
        # descent goes against the gradient: from 30 back with a positive one, from -30 with a negative one
        outer, inner = np.sign([sign, -sign]) > 0, found[:, 1]
        assert (np.abs(found[outer, 0]) > 0.05).all() and (np.abs(found[~outer, 0]) < 1e-6).all()
        assert (np.sign(found[outer, 0]) == sign).all()
        slope = 1 - np.tanh(0.3 + np.arctanh(0.5 / 1.5015)) ** 2
        np.testing.assert_allclose(inner, sign * slope * 1.5015 / 2, rtol=1e-4)  # between, it is that of tanh
