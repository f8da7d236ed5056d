import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import layers
from keras_mmai.layers import quantizers

CODEBOOKS, DISTANCES = ("ema", "gradient"), ("euclidean", "cosine")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def quantizer(k=8, dim=4, **kwargs):
    """A built quantizer whose codes are known: normal numbers, and no revival unless asked for."""
    kwargs = {"initialization": "uniform", "revival_threshold": 0.0, "seed": 1, **kwargs}
    layer = layers.VectorQuantizer(k, dim, **kwargs)
    layer.build((None, None, dim))
    if kwargs["initialization"] == "uniform":
        place(layer, normal(k, dim, seed=5))
    return layer


def place(layer, codes):
    codes = unit(codes) if layer.distance == "cosine" else codes
    layer.embeddings.assign(codes)
    layer.shift.assign(0 * codes if layer.codebook == "gradient" else codes)
    layer.counts.assign(np.ones(len(codes)))


def numbers(value):
    return np.asarray(ops.convert_to_numpy(value))


def state(layer):
    return {v.name: numbers(v) for v in (layer.embeddings, layer.counts, layer.shift, layer.initialized)}


def reference(z, codes, beta, valid):
    """Codes, vectors and losses of the valid rows in float64, by the definition."""
    z, codes = z.reshape(-1, z.shape[-1]).astype("float64"), codes.astype("float64")
    index = np.square(z[:, None] - codes).sum(-1).argmin(-1)
    error = np.square(z - codes[index])[valid.reshape(-1)].mean()
    return index, codes[index], {"commitment": beta * error, "codebook": error}


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


@pytest.mark.parametrize("initialization", ["batch", "kmeans"])
def test_codebook_gradient_in_the_first_step(initialization, gradients):
    """A codebook that starts from the batch learns from that batch too."""
    layer = quantizer(4, 2, codebook="gradient", initialization=initialization)
    z = normal(64, 2)
    _, (_, codes) = gradients(lambda z: layer(z, training=True)["losses"]["codebook"], [z], layer.trainable_variables)
    assert (np.abs(codes).max(-1) > (1e-4 if initialization == "batch" else 1e-9)).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_moving_averages_of_equation_5(distance, compiled):
    layer = quantizer(distance=distance, decay=0.9)
    step = compiled(layer, training=True)
    codes, counts = numbers(layer.codes).astype("float64"), np.ones(8)
    sums = codes.copy()
    for i in range(3):
        z = normal(3, 7, 4, seed=i)
        rows = (unit(z) if distance == "cosine" else z).reshape(-1, 4).astype("float64")
        output = step({"z": z})
        index, _, _ = reference(rows, codes, 1.0, np.ones(21, bool))
        np.testing.assert_array_equal(numbers(output["codes"]).reshape(-1), index)  # by the codes before the update
        one_hot = np.eye(8)[index]
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * one_hot.T @ rows
        codes = sums / counts[:, None]
        if distance == "cosine":  # kept at unit length, and M with it
            codes = unit(codes)
            sums = codes * counts[:, None]
        np.testing.assert_allclose(layer.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(layer.codes, codes, atol=1e-5)


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_mask_equals_cropping(codebook, distance, forward):
    options = dict(codebook=codebook, distance=distance, revival_threshold=0.3)
    whole, cropped = quantizer(**options), quantizer(**options)
    z = normal(2, 6, 4)
    z[:, 4:] = 100.0
    mask = np.tile(np.arange(6) < 4, (2, 1))
    masked = forward(whole, {"z": z, "mask": mask}, training=True)
    plain = forward(cropped, {"z": z[:, :4]}, training=True)
    np.testing.assert_array_equal(numbers(masked["codes"])[:, :4], plain["codes"])
    np.testing.assert_array_equal(numbers(masked["quantized"])[:, :4], plain["quantized"])
    assert not numbers(masked["codes"])[:, 4:].any() and not numbers(masked["quantized"])[:, 4:].any()
    for name, loss in plain["losses"].items():
        np.testing.assert_allclose(masked["losses"][name], loss, rtol=1e-5)
    for name, value in state(cropped).items():
        np.testing.assert_allclose(state(whole)[name], value, atol=1e-6, err_msg=name)


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


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("initialization", ["kmeans", "uniform"])
def test_a_batch_without_a_valid_row_changes_nothing(codebook, initialization, compiled):
    layer = quantizer(codebook=codebook, initialization=initialization, revival_threshold=0.5)
    layer.counts.assign(np.arange(8.0))  # some would be revived
    layer.shift.assign(layer.codes * layer.counts[:, None] if codebook == "ema" else layer.shift + 0.0)
    before, step = state(layer), compiled(layer, training=True)
    z = normal(2, 5, 4)
    for batch, mask in ((np.full_like(z, np.nan), np.ones((2, 5), bool)), (z, np.zeros((2, 5), bool))):
        output = step({"z": batch, "mask": mask})
        assert all(float(loss) == 0.0 for loss in output["losses"].values())
        for name, value in state(layer).items():
            np.testing.assert_allclose(value, before[name], atol=1e-6, err_msg=name)


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


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("initialization", ["batch", "uniform"])
def test_codes_times_counts_are_the_sums(distance, initialization, compiled):
    layer = layers.VectorQuantizer(16, 4, distance=distance, initialization=initialization, decay=0.9, seed=0)
    layer.build((None, 4))
    step = compiled(layer, training=True)
    for i in range(40):
        if i in (0, 1, 2, 39):
            now = state(layer)
            product = now["embeddings"] * now["counts"][:, None]
            np.testing.assert_allclose(now["sums"], product, rtol=1e-5, atol=1e-7)
            if distance == "cosine" and (i or initialization == "uniform"):
                np.testing.assert_allclose(np.linalg.norm(now["embeddings"], axis=-1), 1.0, rtol=1e-5)
        step({"z": normal(32, 4, seed=i)})


def test_sums_and_codes_begin_equal_in_a_model_that_builds_itself(fit):
    """Inside a subclassed model the weights are created without values first."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.quantizer = layers.VectorQuantizer(4, 2, initialization="uniform", revival_threshold=0.0)
            self.decoder = keras.layers.Dense(2)

        def call(self, z, training=False):
            return self.decoder(self.quantizer(z, training=training)["quantized"])

    model = Model()
    model.compile("sgd", "mse")
    z = np.tile(np.array([[3.0, 3.0]], "float32"), (8, 1))
    model.evaluate(z, z, verbose=0)
    before = state(model.quantizer)
    np.testing.assert_array_equal(before["sums"], before["embeddings"])
    fit(model, z, z, epochs=2)
    unused = numbers(model.quantizer.counts) < 1
    assert unused.sum() == 3
    np.testing.assert_allclose(state(model.quantizer)["embeddings"][unused], before["embeddings"][unused], rtol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.99])
@pytest.mark.parametrize("distance", DISTANCES)
def test_unused_codes_neither_explode_nor_vanish(distance, decay, compiled):
    layer = quantizer(distance=distance, decay=decay)
    codes = numbers(layer.codes).copy()
    step = compiled(layer, training=True)
    z = np.tile(codes[:1], (16, 1))
    for _ in range(60):
        step({"z": z})
    np.testing.assert_allclose(layer.codes, codes, rtol=1e-3)


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_dead_codes_move_and_stay(distance, codebook, compiled):
    """The reset that moves a code and is undone in the same step is the best-known bug of quantizers."""
    layer = quantizer(4, 2, codebook=codebook, distance=distance, decay=0.9, revival_threshold=0.2)
    places = unit(np.array([[1, 0.1], [0.1, 1], [-1, 0.1], [0.1, -1]], "float32"))
    place(layer, np.concatenate([places[:2], [[-9.0, -9.1], [-9.1, -9.0]]]).astype("float32"))
    layer.counts.assign([1.0, 1.0, 1e-3, 1e-3])
    if codebook == "ema":
        layer.shift.assign(layer.codes * layer.counts[:, None])
    z = np.repeat(places[:2], 8, axis=0) + 0.05 * normal(16, 2)
    far = numbers(layer.codes)[2:].copy()
    step = compiled(layer, training=True)
    step({"z": z})
    rows = unit(z) if distance == "cosine" else z

    def distance_to_data():
        return np.abs(numbers(layer.codes)[:, None] - rows).max(-1).min(-1)

    assert distance_to_data()[2:].max() < 1e-5  # on a latent of the batch
    for _ in range(10):
        step({"z": z})
        assert distance_to_data().max() < 0.1
        assert np.abs(numbers(layer.codes)[2:] - far).max(-1).min() > 0.1
    assert {2, 3} <= set(numbers(layer(z)["codes"]).tolist())  # and they are in use
    moving = numbers(layer.codes)[2:].copy()
    step({"z": z})
    np.testing.assert_allclose(numbers(layer.codes)[2:], moving, atol=0.05)


def test_revival_can_be_turned_off(forward):
    layer = quantizer(4, 2, codebook="gradient", revival_threshold=0.0)
    layer.counts.assign([1.0, 1.0, 1e-6, 1e-6])
    before = numbers(layer.codes).copy()
    forward(layer, {"z": normal(16, 2)}, training=True)
    np.testing.assert_allclose(layer.codes, before, atol=1e-6)


def test_candidates_are_valid_rows_and_few_repeat():
    layer = quantizer(64, 2)
    z = normal(256, 2)
    valid = np.arange(256) % 2 == 0
    found = numbers(layer._candidates(ops.convert_to_tensor(z), ops.convert_to_tensor(valid)))
    rows = [int(np.flatnonzero((z == code).all(-1))[0]) for code in found]
    assert all(valid[rows])
    assert len(set(rows)) == 64  # 128 valid rows, two for each code: none twice
    assert (np.diff(rows) < 0).any()  # in no order


def test_the_largest_draw_is_a_valid_row_too(monkeypatch):
    """float32 rounds (k - 1 + draw) / k up to one."""
    layer = quantizer(8, 2)
    largest = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(keras.random, "uniform", lambda shape, seed=None: ops.full(shape, largest, dtype="float32"))
    z = 1 + np.abs(normal(6, 2))
    z[4:] = 0.0
    found = layer._candidates(ops.convert_to_tensor(z), ops.convert_to_tensor(np.arange(6) < 4))
    assert numbers(found).min() >= 1


@pytest.mark.parametrize("codebook, initialization", [("ema", "kmeans"), ("gradient", "batch")])
def test_starts_from_the_first_training_batch_once(codebook, initialization, compiled, tmp_path):
    layer = quantizer(4, 2, codebook=codebook, initialization=initialization, decay=0.999)
    centres = np.array([[5, 5], [5, -5], [-5, 5], [-5, -5]], "float32")
    z = np.repeat(centres, 16, axis=0) + 0.1 * normal(64, 2)
    before = numbers(layer.codes).copy()
    layer(z)
    np.testing.assert_array_equal(layer.codes, before)  # not at inference
    step = compiled(layer, training=True)
    step({"z": z})
    first = numbers(layer.codes)
    error = np.abs(first[:, None] - z).max(-1).min(-1)
    assert error.max() < 0.4
    if initialization == "kmeans":  # four clear groups with one code drawn from each quarter of the rows
        np.testing.assert_allclose(sorted(first.round().tolist()), sorted(centres.tolist()))
    step({"z": z + 100})
    assert np.abs(numbers(layer.codes) - first).max() < 50  # a second start would jump to the new batch

    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.save(tmp_path / "model.keras")
    loaded = next(each for each in keras.models.load_model(tmp_path / "model.keras").layers if each.name == layer.name)
    saved = numbers(layer.codes)
    np.testing.assert_array_equal(loaded.codes, saved)
    compiled(loaded, training=True)({"z": z - 100})
    assert np.abs(numbers(loaded.codes) - saved).max() < 50


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


def test_300_steps_in_bfloat16_equal_float32(compiled):
    layer = quantizer(dtype="mixed_bfloat16")
    step = compiled(layer, training=True)
    codes, counts = numbers(layer.codes).astype("float64"), np.ones(8)
    batches = [normal(32, 4, seed=i) for i in range(10)]
    for i in range(300):
        step({"z": batches[i % 10]})
        one_hot = np.eye(8)[nearest(batches[i % 10], codes)]
        sums = 0.99 * counts[:, None] * codes + 0.01 * one_hot.T @ batches[i % 10]
        counts = 0.99 * counts + 0.01 * one_hot.sum(0)
        codes = sums / counts[:, None]
    np.testing.assert_allclose(layer.counts, counts, rtol=1e-3)
    np.testing.assert_allclose(layer.codes, codes, atol=1e-3)


def test_a_frozen_quantizer_does_not_learn(forward):
    layer = quantizer(revival_threshold=0.5)
    layer.trainable = False
    before = state(layer)
    forward(layer, {"z": normal(32, 4)}, training=True)
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value, before[name])


def nearest(z, codes):
    score = z.astype("float64") @ codes.astype("float64").T - 0.5 * np.square(codes.astype("float64")).sum(-1)
    return score.argmax(-1)


def test_no_wrong_index_far_from_zero():
    codes, z = 300 + normal(1024, 64, seed=1), 300 + normal(4096, 64, seed=2)
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert "int32" in str(found.dtype)
    np.testing.assert_array_equal(found, nearest(z, codes))


@pytest.mark.parametrize("n", [1, 7, 8, 50])
def test_chunked_search_equals_the_direct_one(n, monkeypatch):
    z, codes = normal(n, 4), normal(16, 4, seed=1)
    monkeypatch.setattr(quantizers, "SCORE_BYTES", 8 * 16 * 4)  # eight rows at once
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    np.testing.assert_array_equal(found, nearest(z, codes))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends know every length")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_search_over_an_unknown_number_of_rows(jit_compile, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(quantizers, "SCORE_BYTES", 8 * 16 * 4)
    codes = normal(16, 4, seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))], jit_compile=jit_compile)
    def search(z):
        return layers.nearest_code(z, ops.convert_to_tensor(codes))

    for n in (1, 5, 8, 9, 50):
        z = normal(n, 4, seed=n)
        np.testing.assert_array_equal(search(z), nearest(z, codes))


def test_search_is_chunked_in_memory():
    """The scores of 2 ** 13 codes and 2 ** 13 rows are 256 MiB: more than one chunk."""
    z, codes = normal(2**13, 2), normal(2**13, 2, seed=1)
    rows = []
    matmul = ops.matmul

    def counted(a, b):
        rows.append(a.shape[0])
        return matmul(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizers.ops, "matmul", counted)
        found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert max(rows) * 2**13 * 4 <= quantizers.SCORE_BYTES
    np.testing.assert_array_equal(numbers(found)[::97], nearest(z[::97], codes))


def test_lookup_clips():
    layer = quantizer()
    codes = numbers(layer.codes)
    found = layer.lookup(np.array([[-3, 0], [7, 99]], "int32"))
    np.testing.assert_array_equal(found, codes[[[0, 0], [7, 7]]])


@pytest.mark.parametrize(
    "codebook, distance, initialization",
    [
        ("ema", "euclidean", "batch"),
        ("ema", "cosine", "uniform"),
        ("gradient", "euclidean", "uniform"),
        ("gradient", "cosine", "batch"),
    ],
)
def test_learns_inside_fit(codebook, distance, initialization, fit):
    """Latents in eight groups, codes that start anywhere: after `fit` every group has a code, on any backend."""
    centres = unit(normal(8, 4, seed=3)) * (1 if distance == "cosine" else 3)
    z = np.tile(centres, (32, 1)) + 0.02 * normal(256, 4)
    layer = layers.VectorQuantizer(
        32, 4, codebook=codebook, distance=distance, initialization=initialization, decay=0.8, seed=0
    )
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(4, kernel_initializer="identity")(layer(inputs)["quantized"])
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    fit(model, z, z, batch_size=64, epochs=15)
    codes = numbers(layer.codes)
    assert np.isfinite(codes).all()
    targets = unit(centres) if distance == "cosine" else centres
    assert np.abs(targets[:, None] - codes).max(-1).min(-1).max() < (0.2 if distance == "cosine" else 0.5)
    assert numbers(layer.counts).min() > 0


def test_rounding_does_not_move_a_gradient_codebook(compiled):
    """Without revival nothing but the optimizer may move the codes, in any number of steps."""
    layer = quantizer(codebook="gradient", initialization="batch")
    step = compiled(layer, training=True)
    step({"z": 100 + normal(32, 4)})
    first = numbers(layer.codes)
    for i in range(100):
        step({"z": 100 + normal(32, 4, seed=i)})
    np.testing.assert_array_equal(layer.codes, first)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(codebook="mean"), r"`codebook` must be one of \('ema', 'gradient'\). Received: 'mean'"),
        (dict(distance="l1"), "`distance` must be one of .*'l1'"),
        (dict(initialization="zeros"), "`initialization` must be one of .*'zeros'"),
        (dict(num_embeddings=0), "`num_embeddings` and `embedding_dim` must be positive. Received: 0 and 4"),
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
        with pytest.raises(ValueError, match=r"holds codes of width 4. Received: latents of shape \(2, 8\)"):
            layer(np.zeros((2, 8), "float32"))
        layer(np.zeros((2, 4), "float32"))


def test_perplexity():
    assert float(quantizers.perplexity(ops.convert_to_tensor([2.0, 2.0, 0.0, 2.0]))) == pytest.approx(3, rel=1e-5)
    assert float(quantizers.perplexity(ops.zeros(4))) == 0
