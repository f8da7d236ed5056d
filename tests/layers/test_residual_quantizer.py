"""Residual and grouped quantizers: what their levels and groups do together."""

import numpy as np
import pytest
from codebook import CODEBOOKS, nearest, normal, numbers, place, state
from keras import ops

from keras_mmai import layers


def level(k=8, dim=4, seed=0, **kwargs):
    layer = layers.VectorQuantizer(
        k, dim, **{"initialization": "uniform", "revival_threshold": 0.0, "seed": seed, **kwargs}
    )
    layer.build((None, dim))
    if layer.initialization == "uniform":
        place(layer, normal(k, dim, seed=10 + seed) / (1 + seed))
    return layer


def residual(num_levels=3, dropout=0.0, **kwargs):
    layer = layers.ResidualQuantizer([level(seed=i, **kwargs) for i in range(num_levels)], dropout=dropout, seed=0)
    layer.build((None, 4))
    return layer


def test_each_level_codes_what_those_before_have_left(forward):
    layer, z = residual(), normal(5, 6, 4)
    output = forward(layer, {"z": z})
    left, errors = z.reshape(-1, 4).astype("float64"), []
    for i, quantizer in enumerate(layer.quantizers):
        codes = numbers(quantizer.codes).astype("float64")
        index = nearest(left, codes)
        np.testing.assert_array_equal(numbers(output["codes"])[..., i].reshape(-1), index)
        left = left - codes[index]
        errors.append(np.mean(left**2))
    np.testing.assert_allclose(numbers(output["quantized"]).reshape(-1, 4), z.reshape(-1, 4) - left, atol=1e-5)
    np.testing.assert_allclose(output["losses"]["commitment"], 0.25 * np.mean(errors), rtol=1e-5)
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("num_levels", [1, 2, 8, 32])
def test_the_gradient_passes_once(num_levels, gradients):
    """One peer multiplies it by the number of levels, and others leave all commitments but the first without one."""
    layer, z, pull = residual(num_levels), normal(6, 4), normal(6, 4, seed=1)
    _, (straight,) = gradients(lambda z: ops.sum(layer(z)["quantized"] * ops.convert_to_tensor(pull)), [z])
    np.testing.assert_allclose(straight, pull, rtol=1e-6)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_the_commitment_of_every_level_pulls(codebook, gradients):
    layer, z = residual(4, codebook=codebook), normal(6, 4)
    left = z.astype("float64")
    expected = np.zeros_like(left)
    for i, quantizer in enumerate(layer.quantizers):
        codes = numbers(quantizer.codes).astype("float64")
        left = left - codes[nearest(left, codes)]
        alone = 0.25 * 2 * left / z.size / 4
        quantizer.commitment_weight = 0.25
        for j, other in enumerate(layer.quantizers):
            other.commitment_weight = 0.25 if i == j else 0.0
        _, (pull,) = gradients(lambda z: layer(z)["losses"]["commitment"], [z])
        np.testing.assert_allclose(pull, alone, atol=1e-6)
        assert np.abs(pull).max() > 1e-4
        expected += alone
    for quantizer in layer.quantizers:
        quantizer.commitment_weight = 0.25
    _, (pull, *codes) = gradients(lambda z: sum(layer(z)["losses"].values()), [z], layer.trainable_variables)
    np.testing.assert_allclose(pull, expected, atol=1e-6)
    assert len(codes) == (4 if codebook == "gradient" else 0)
    assert all(np.abs(each).max() > 1e-4 for each in codes)


def test_fewer_codes_are_a_coarser_description(forward):
    layer, z = residual(4), normal(30, 4)
    codes = numbers(forward(layer, {"z": z})["codes"])
    errors = [np.mean((numbers(layer.lookup(codes[:, :n])) - z) ** 2) for n in (1, 2, 3, 4)]
    assert (np.diff(errors) < 0).all()
    without = codes.copy()
    without[:, 2:] = -1
    np.testing.assert_array_equal(layer.lookup(without), layer.lookup(codes[:, :2]))


@pytest.mark.parametrize("initialization", ["batch", "kmeans"])
def test_levels_start_one_after_another(initialization, compiled):
    """A level that started with the first would see residuals of zero."""
    layer = layers.ResidualQuantizer(
        [layers.VectorQuantizer(16, 4, initialization=initialization, seed=i) for i in range(3)]
    )
    layer.build((None, 4))
    step = compiled(layer, training=True)
    for i in range(3):
        output = step({"z": normal(64, 4, seed=i)})
        assert [bool(q.started) for q in layer.quantizers] == [n <= i for n in range(3)]
        codes = numbers(output["codes"])
        assert (codes[:, : i + 1] >= 0).all() and (codes[:, i + 1 :] == -1).all()
        if i:
            assert np.linalg.norm(layer.quantizers[i].codes, axis=-1).min() > 1e-3
    output = step({"z": normal(64, 4)})
    assert (numbers(output["codes"]) >= 0).all()


def levels_used(output):
    return (numbers(output["codes"]) >= 0).sum(-1)


def test_quantizer_dropout_is_per_sample(forward):
    layer, z = residual(4, dropout=0.5, decay=0.9999), normal(64, 3, 4)
    output = forward(layer, {"z": z}, training=True)
    used = levels_used(output)
    assert (used == used[:, :1]).all()  # the tokens of a sample go together
    counts = np.bincount(used[:, 0], minlength=5)
    assert counts[0] == 0 and (counts[1:] > 0).all() and 32 <= counts[4] <= 50  # half, and those that drew all
    np.testing.assert_allclose(layer.lookup(output["codes"]), output["quantized"], atol=0.01)
    again = forward(layer, {"z": z}, training=True)
    assert (levels_used(again) != used).any()
    assert (levels_used(forward(layer, {"z": z})) == 4).all()  # not at inference


def test_a_mask_with_quantizer_dropout_equals_cropping(forward):
    whole, cropped = (residual(4, dropout=0.5) for _ in range(2))
    z = normal(16, 6, 4)
    z[:, 4:] = 100.0
    mask = np.tile(np.arange(6) < 4, (16, 1))
    masked = forward(whole, {"z": z, "mask": mask}, training=True)
    plain = forward(cropped, {"z": z[:, :4]}, training=True)
    assert len(np.unique(levels_used(plain))) > 1
    np.testing.assert_array_equal(numbers(masked["codes"])[:, :4], plain["codes"])
    np.testing.assert_array_equal(numbers(masked["quantized"])[:, :4], plain["quantized"])
    np.testing.assert_allclose(masked["losses"]["commitment"], plain["losses"]["commitment"], rtol=1e-5)
    for ours, theirs in zip(whole.quantizers, cropped.quantizers):
        for name, value in state(theirs).items():
            np.testing.assert_allclose(state(ours)[name], value, atol=1e-5, err_msg=name)


def test_dropout_reaches_a_batch_of_one(compiled):
    step = compiled(residual(4, dropout=0.5), training=True)
    drawn = {int(levels_used(step({"z": normal(1, 4)}))[0]) for _ in range(40)}
    assert drawn == {1, 2, 3, 4}


def test_what_a_sample_does_not_use_leaves_no_trace(forward):
    layer = residual(3, dropout=1.0)
    before = [numbers(q.counts).copy() for q in layer.quantizers]
    output = forward(layer, {"z": normal(40, 4)}, training=True)
    used = levels_used(output)
    for i, (quantizer, old) in enumerate(zip(layer.quantizers, before)):
        added = (numbers(quantizer.counts) - 0.99 * old).sum() / 0.01
        np.testing.assert_allclose(added, (used > i).sum(), rtol=1e-3)
    # where fewer levels are used, the rest is larger
    error = np.mean((numbers(output["quantized"]) - normal(40, 4)) ** 2, axis=-1)
    assert error[used == 1].mean() > error[used == 3].mean()


def test_residual_learns_inside_fit(fit):
    import keras

    rng = np.random.default_rng(0)
    z = (rng.choice(3, (512, 4)) - 1 + 0.3 * (rng.choice(3, (512, 4)) - 1)).astype("float32")
    errors = {}
    for num_levels in (1, 3):
        layer = layers.ResidualQuantizer([layers.VectorQuantizer(32, 4, decay=0.8, seed=i) for i in range(num_levels)])
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(4, kernel_initializer="identity")(layer(inputs)["quantized"]))
        model.compile(keras.optimizers.Adam(1e-3), "mse")
        fit(model, z, z, batch_size=64, epochs=10)
        errors[num_levels] = np.mean((numbers(layer(z)["quantized"]) - z) ** 2)
    assert errors[3] < 0.4 * errors[1]


def test_groups_code_their_own_channels(forward):
    parts = [level(8, 3, seed=1), layers.FiniteScalarQuantizer((5,)), level(6, 4, seed=2)]
    layer = layers.GroupedQuantizer(parts)
    layer.build((None, 8))
    z = normal(2, 5, 8)
    output = forward(layer, {"z": z})
    assert layer.embedding_dim == 8 and layer.vocabulary == 8 and layer.code_shape == (3,)
    for i, (part, channels) in enumerate(zip(parts, (slice(0, 3), slice(3, 4), slice(4, 8)))):
        alone = forward(part, {"z": z[..., channels]})
        np.testing.assert_array_equal(numbers(output["codes"])[..., i], alone["codes"])
        np.testing.assert_array_equal(numbers(output["quantized"])[..., channels], alone["quantized"])


def test_a_level_that_is_not_used_adds_nothing_to_a_distance():
    layer, z = residual(3), normal(6, 4)
    codes = numbers(layer(z)["codes"]).copy()
    codes[:, 1] = -1
    one, _, three = (numbers(q.lookup(codes[:, i])) for i, q in enumerate(layer.quantizers))
    expected = [np.linalg.norm(rest, axis=-1) for rest in (z - one, z - one, z - one - three)]
    np.testing.assert_allclose(layer.distances(z, codes), np.stack(expected, axis=-1), rtol=1e-5)


def test_a_frozen_level_stands_still(forward):
    layer = residual(2)
    layer.quantizers[0].trainable = False
    before = [numbers(q.codes).copy() for q in layer.quantizers]
    forward(layer, {"z": normal(40, 4)}, training=True)
    np.testing.assert_array_equal(layer.quantizers[0].codes, before[0])
    assert (numbers(layer.quantizers[1].codes) != before[1]).any()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.ResidualQuantizer([]), "one or more `VectorQuantizer` or `SimVQ`"),
        (lambda: layers.ResidualQuantizer([layers.LookupFreeQuantizer(4)]), "one or more `VectorQuantizer` or `SimVQ`"),
        (lambda: layers.ResidualQuantizer([level(), level(dim=3)]), r"must have one width.*embedding_dim=\[4, 3\]"),
        (lambda: layers.ResidualQuantizer([level(code_dim=2, initialization="batch")]), "no `code_dim` of their own"),
        (lambda: layers.ResidualQuantizer([level(distance="cosine")]), 'must have distance="euclidean"'),
        (lambda: layers.ResidualQuantizer([level(gradient="rotation")]), 'must have gradient="straight_through"'),
        (lambda: layers.ResidualQuantizer([level()] * 2), "must be different objects"),
        (lambda: layers.ResidualQuantizer([level()], dropout=1.5), "dropout=1.5"),
        (lambda: layers.GroupedQuantizer([]), "one or more quantizers"),
        (lambda: layers.GroupedQuantizer([level(), residual()]), r"codes of one shape. Received: \[\(\), \(3,\)\]"),
    ],
)
def test_bad_compositions(make, message):
    with pytest.raises(ValueError, match=message):
        make()
