import keras
import numpy as np
import pytest
from codebook import CODEBOOKS, DISTANCES, normal, numbers, place, quantizer, reference, state, unit, use
from keras import ops

from keras_mmai import layers


@pytest.mark.parametrize(
    "distance, codebook, shape",
    [
        ("euclidean", "ema", (7, 4)),
        ("euclidean", "gradient", (2, 5, 4)),
        ("cosine", "ema", (2, 3, 2, 4)),
        ("cosine", "gradient", (2, 2, 1, 3, 4)),
    ],
)
def test_against_float64(distance, codebook, shape, forward):
    layer = quantizer(codebook=codebook, distance=distance, commitment_weight=0.4)
    z = normal(*shape)
    output = forward(layer, {"z": z})
    rows = unit(z) if distance == "cosine" else z
    codes = numbers(layer.codes)
    index, _, losses = reference(rows, codes, 0.4, np.ones(shape[:-1], bool))
    assert "int32" in str(output["codes"].dtype)
    np.testing.assert_array_equal(output["codes"], index.reshape(shape[:-1]))
    np.testing.assert_array_equal(output["quantized"], codes[index].reshape(shape))  # the code itself, bit for bit
    np.testing.assert_array_equal(layer.lookup(output["codes"]), output["quantized"])
    assert sorted(output["losses"]) == sorted(layer.loss_names)
    for name, loss in output["losses"].items():
        np.testing.assert_allclose(loss, losses[name], rtol=1e-5)


def test_losses_are_added_to_the_model():
    layer = quantizer(codebook="gradient")
    losses = layer(normal(2, 5, 4))["losses"]
    np.testing.assert_allclose(layer.losses[0], losses["commitment"] + losses["codebook"], rtol=1e-6)


def test_exact_output_far_from_zero():
    layer = quantizer()
    place(layer, 1e4 + normal(8, 4))
    output = layer(1e4 + normal(3, 4))
    np.testing.assert_array_equal(output["quantized"], numbers(layer.codes)[numbers(output["codes"])])


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_gradients(codebook, gradients):
    """Straight-through gain 1 on z; commitment moves z only; the codebook loss moves the codes only."""
    layer = quantizer(codebook=codebook, commitment_weight=0.4)
    z, pull = normal(3, 5, 4), normal(3, 5, 4, seed=2)
    index, chosen, _ = reference(z, numbers(layer.codes), 0.4, np.ones((3, 5), bool))
    variables = layer.trainable_variables
    assert len(variables) == (codebook == "gradient")

    weight = ops.convert_to_tensor(pull)
    _, (straight, *codes) = gradients(lambda z: ops.sum(layer(z)["quantized"] * weight), [z], variables)
    np.testing.assert_allclose(straight, pull, rtol=1e-6)
    assert all(g is None or not g.any() for g in codes)

    _, (commitment, *codes) = gradients(lambda z: layer(z)["losses"]["commitment"], [z], variables)
    np.testing.assert_allclose(commitment, 0.4 * 2 * (z - chosen.reshape(z.shape)) / z.size, atol=1e-6)
    assert all(g is None or not g.any() for g in codes)

    if codebook == "gradient":
        _, (towards_z, codes) = gradients(lambda z: layer(z)["losses"]["codebook"], [z], variables)
        assert towards_z is None or not towards_z.any()
        expected = np.zeros((8, 4))
        np.add.at(expected, index, 2 * (chosen - z.reshape(-1, 4)) / z.size)
        np.testing.assert_allclose(codes, expected, atol=1e-6)


@pytest.mark.parametrize(
    "codebook, distance, initialization",
    [
        ("ema", "euclidean", "uniform"),
        ("gradient", "cosine", "uniform"),
        ("gradient", "euclidean", "batch"),
        ("ema", "euclidean", "kmeans"),
        pytest.param("ema", "cosine", "batch", marks=pytest.mark.slow),
        pytest.param("gradient", "cosine", "kmeans", marks=pytest.mark.slow),
    ],
)
def test_a_mask_equals_cropping(codebook, distance, initialization, forward):
    """Also where codes start from the batch, or are moved to latents of it."""
    options = dict(codebook=codebook, distance=distance, initialization=initialization, revival_threshold=0.3)
    whole, cropped = quantizer(**options), quantizer(**options)
    z = normal(2, 12, 4)
    z[:, 8:] = 100.0
    mask = np.tile(np.arange(12) < 8, (2, 1))
    if initialization == "uniform":
        for layer in (whole, cropped):
            use(layer, [2, 1e-3] * 4)
    before = numbers(whole.codes).copy()
    masked = forward(whole, {"z": z, "mask": mask}, training=True)
    plain = forward(cropped, {"z": z[:, :8]}, training=True)
    np.testing.assert_array_equal(numbers(masked["codes"])[:, :8], plain["codes"])
    np.testing.assert_array_equal(numbers(masked["quantized"])[:, :8], plain["quantized"])
    assert not numbers(masked["codes"])[:, 8:].any() and not numbers(masked["quantized"])[:, 8:].any()
    for name, loss in plain["losses"].items():
        np.testing.assert_allclose(masked["losses"][name], loss, rtol=1e-5)
    for name, value in state(cropped).items():
        np.testing.assert_allclose(state(whole)[name], value, atol=1e-6, err_msg=name)
    rows = unit(z) if distance == "cosine" else z
    on_a_latent = np.abs(numbers(whole.codes)[:, None] - rows[:, :8].reshape(-1, 4)).max(-1).min(-1) < 1e-5
    assert on_a_latent.sum() >= (4 if initialization == "uniform" else 0)
    assert np.abs(numbers(whole.codes) - before).max(-1)[1::2].min() > 0.01


def test_the_mask_of_a_layer_before_is_taken_and_handed_on():
    explicit, implicit = quantizer(), quantizer()
    z = normal(3, 6, 4)
    z[1, 4:] = z[2, 1:] = 0.0
    mask = (z != 0).any(-1)
    expected = explicit(ops.convert_to_tensor(z), mask=ops.convert_to_tensor(mask), training=True)
    found = implicit(keras.layers.Masking()(ops.convert_to_tensor(z)), training=True)
    np.testing.assert_array_equal(found["codes"], expected["codes"])
    np.testing.assert_array_equal(found["quantized"], expected["quantized"])
    np.testing.assert_allclose(found["losses"]["commitment"], expected["losses"]["commitment"], rtol=1e-6)
    for name, value in state(explicit).items():
        np.testing.assert_array_equal(state(implicit)[name], value, err_msg=name)
    mean = numbers(found["quantized"]).sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(keras.layers.GlobalAveragePooling1D()(found["quantized"]), mean, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_nan_in_padding_does_not_reach_the_encoder(distance, gradients):
    layer = quantizer(distance=distance, codebook="gradient")
    z = normal(6, 4)
    z[4:] = np.nan
    mask = ops.convert_to_tensor(np.arange(6) < 4)

    def loss(z):
        output = layer(z, mask=mask)
        return ops.sum(output["quantized"]) + sum(output["losses"].values())

    value, (by_z, by_codes) = gradients(loss, [z], layer.trainable_variables)
    assert np.isfinite(value) and np.isfinite(by_codes).all()
    assert np.isfinite(by_z).all() and not by_z[4:].any() and by_z[:4].any()


def test_rows_that_are_not_finite_leave_no_trace(forward):
    z = normal(10, 4)
    for bad in (np.nan, np.inf):
        dirty, clean = quantizer(), quantizer()
        spoiled = np.concatenate([z, np.full((3, 4), bad, "float32")])
        output = forward(dirty, {"z": spoiled}, training=True)
        expected = forward(clean, {"z": z}, training=True)
        np.testing.assert_allclose(output["losses"]["commitment"], expected["losses"]["commitment"], rtol=1e-6)
        for name, value in state(clean).items():
            np.testing.assert_allclose(state(dirty)[name], value, atol=1e-6)
        assert not np.isfinite(numbers(output["quantized"])[10:]).any()  # an encoder that is broken is seen


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_state_is_float32_and_moves_under_every_policy(policy, forward):
    layer = quantizer(dtype=policy)
    before = state(layer)
    z = ops.cast(normal(32, 4), layer.compute_dtype)
    output = forward(layer, {"z": z}, training=True)
    assert output["quantized"].dtype == z.dtype
    for name, value in state(layer).items():
        assert value.dtype == np.float32
        assert name == "initialized" or np.abs(value - before[name]).max() > 1e-3
    same = quantizer()
    forward(same, {"z": ops.cast(z, "float32")}, training=True)
    for name, value in state(same).items():
        np.testing.assert_allclose(state(layer)[name], value, atol=1e-6)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_losses_are_float32_where_squares_overflow_in_float16(codebook):
    low, full = quantizer(codebook=codebook, dtype="mixed_float16"), quantizer(codebook=codebook)
    z = ops.cast(1e3 * normal(32, 4), "float16")
    losses, expected = low(z)["losses"], full(ops.cast(z, "float32"))["losses"]
    for name, loss in losses.items():
        assert "float32" in str(loss.dtype)
        assert float(loss) == pytest.approx(float(expected[name]), rel=1e-6) and float(loss) > 65504
    assert float(low.losses[0]) == pytest.approx(float(sum(expected.values())), rel=1e-6)


def test_lookup_clips():
    layer = quantizer()
    codes = numbers(layer.codes)
    found = layer.lookup(np.array([[-3, 0], [7, 99]], "int32"))
    np.testing.assert_array_equal(found, codes[[[0, 0], [7, 7]]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(codebook="mean"), r"`codebook` must be one of \('ema', 'gradient'\). Received: 'mean'"),
        (dict(distance="l1"), "`distance` must be one of .*'l1'"),
        (dict(initialization="zeros"), "`initialization` must be one of .*'zeros'"),
        (dict(num_embeddings=0), "`num_embeddings` must be positive. Received: num_embeddings=0"),
        (dict(embedding_dim=0), "must be positive. Received: embedding_dim=0"),
        (dict(gradient="copy"), "`gradient` must be one of .*'copy'"),
        (dict(decay=1.0), "`decay` must lie in .*decay=1.0"),
        (dict(revival_threshold=1.0), "revival_threshold=1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.VectorQuantizer(**{"num_embeddings": 8, "embedding_dim": 4, **arguments})


def test_latents_of_another_width():
    layer = layers.VectorQuantizer(8, 4)
    for _ in range(2):  # before it is built, and after
        with pytest.raises(ValueError, match=r"takes latents of width 4. Received: latents of shape \(2, 8\)"):
            layer(np.zeros((2, 8), "float32"))
        layer(np.zeros((2, 4), "float32"))
