import keras
import numpy as np
import pytest
from codebook import CODEBOOKS, DISTANCES, nearest, normal, numbers, place, quantizer, reference, state, unit, use
from keras import ops

from keras_mmai import layers


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


def test_sonnets_moving_averages(compiled):
    """Sonnet's `VectorQuantizerEMA` debiases averages that begin at zero, and smooths its counts: from N = M = 0 the
    debiasing cancels in M / N, so the codes in use are equal. Sonnet's codes without use become zero; ours stay."""
    decay, k, n = 0.9, 16, 12
    layer = quantizer(k=k, decay=decay)
    place(layer, np.concatenate([normal(k - 1, 4), np.full((1, 4), 100.0)]))  # the last code is far from all latents
    before, codes = numbers(layer.codes).copy(), numbers(layer.codes).astype("float64")
    layer.counts.assign(np.zeros(k))
    layer.shift.assign(np.zeros((k, 4)))
    step = compiled(layer, training=True)
    hidden_counts, hidden_sums = np.zeros(k), np.zeros((k, 4))
    for t in range(1, 6):
        z = normal(n, 4, seed=t)
        index, _, losses = reference(z, np.where(hidden_counts[:, None] > 0, codes, before), 0.25, np.ones(n, bool))
        output = step({"z": z})
        np.testing.assert_array_equal(numbers(output["codes"]), index)
        np.testing.assert_allclose(output["losses"]["commitment"], losses["commitment"], rtol=1e-4)
        one_hot = np.eye(k)[index]
        hidden_counts = decay * hidden_counts + (1 - decay) * one_hot.sum(0)
        hidden_sums = decay * hidden_sums + (1 - decay) * one_hot.T @ z
        counts, sums = (hidden / (1 - decay**t) for hidden in (hidden_counts, hidden_sums))
        counts = (counts + 1e-5) / (n + k * 1e-5) * n
        codes = sums / counts[:, None]
        used = hidden_counts > 0
        np.testing.assert_allclose(numbers(layer.codes)[used], codes[used], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(numbers(layer.codes)[~used], before[~used])
    assert used[0] and not used[-1]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("initialization", ["batch", "kmeans", "uniform"])
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
    np.testing.assert_allclose(before["sums"], before["embeddings"] * before["counts"][:, None], rtol=1e-6)
    fit(model, z, z, epochs=2)
    unused = numbers(model.quantizer.counts) < 0.01  # what they began with
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


def test_rounding_does_not_move_a_gradient_codebook(compiled):
    """Without revival nothing but the optimizer may move the codes, in any number of steps."""
    layer = quantizer(codebook="gradient", initialization="batch")
    step = compiled(layer, training=True)
    step({"z": 100 + normal(32, 4)})
    first = numbers(layer.codes)
    for i in range(100):
        step({"z": 100 + normal(32, 4, seed=i)})
    np.testing.assert_array_equal(layer.codes, first)


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
    moved = np.abs(numbers(layer.codes) - first).max(axis=-1) > 1
    assert moved.sum() <= 1  # the code nearest to the new batch; a second start would move all

    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.save(tmp_path / "model.keras")
    loaded = next(each for each in keras.models.load_model(tmp_path / "model.keras").layers if each.name == layer.name)
    saved = numbers(layer.codes)
    np.testing.assert_array_equal(loaded.codes, saved)
    compiled(loaded, training=True)({"z": z - 100})
    assert (np.abs(numbers(loaded.codes) - saved).max(axis=-1) > 1).sum() <= 1


@pytest.mark.parametrize("initialization", ["batch", "kmeans"])
def test_codebook_gradient_in_the_first_step(initialization, gradients):
    """A codebook that starts from the batch learns from that batch too."""
    layer = quantizer(4, 2, codebook="gradient", initialization=initialization)
    z = normal(64, 2)
    _, (_, codes) = gradients(lambda z: layer(z, training=True)["losses"]["codebook"], [z], layer.trainable_variables)
    assert (np.abs(codes).max(-1) > (1e-4 if initialization == "batch" else 1e-9)).all()


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_dead_codes_move_and_stay(distance, codebook, compiled):
    """The reset that moves a code and is undone in the same step is the best-known bug of quantizers."""
    layer = quantizer(4, 2, codebook=codebook, distance=distance, decay=0.9, revival_threshold=0.2)
    places = unit(np.array([[1, 0.1], [0.1, 1], [-1, 0.1], [0.1, -1]], "float32"))
    place(layer, np.concatenate([places[:2], [[-9.0, -9.1], [-9.1, -9.0]]]).astype("float32"))
    use(layer, [1.0, 1.0, 1e-3, 1e-3])
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


@pytest.mark.parametrize("size", [1, 100])
def test_dead_codes_are_those_used_less_than_a_fraction_of_the_mean(size, forward):
    layer = quantizer(16, 4, decay=0.9, revival_threshold=0.5)
    counts = np.linspace(0.1, 2, 16)
    use(layer, size * counts)
    z = normal(12, 4)
    before = numbers(layer.codes).astype("float64")
    index = nearest(z, before)
    forward(layer, {"z": np.tile(z, (size, 1))}, training=True)
    counts = 0.9 * counts + 0.1 * np.bincount(index, minlength=16)
    dead = counts < 0.5 * counts.mean()
    assert 2 <= dead.sum() <= 12
    on_a_latent = np.abs(numbers(layer.codes)[:, None] - z).max(-1).min(-1) < 1e-6
    np.testing.assert_array_equal(on_a_latent, dead)
    # what was moved starts at the threshold, with e = M / N
    now = state(layer)
    np.testing.assert_allclose(now["counts"], size * np.where(dead, 0.5 * counts.mean(), counts), rtol=1e-5)
    np.testing.assert_allclose(now["sums"], now["embeddings"] * now["counts"][:, None], rtol=1e-5)


def test_revival_begins_with_the_training(forward):
    """Codes that start far from the latents are among them after a few batches."""
    layer = layers.VectorQuantizer(64, 4, initialization="uniform", seed=0)
    layer.build((None, 4))
    z = 3 + normal(2048, 4)
    for _ in range(4):
        forward(layer, {"z": z}, training=True)
    distance = np.linalg.norm(numbers(layer.codes)[:, None] - z, axis=-1).min(-1)
    assert distance.max() < 1.0  # they began at a distance of 3 and more


def test_use_shows_the_codes_that_no_latent_takes(forward):
    """Revival raises the counts of its codes, but nobody has used them yet."""
    layer, z = quantizer(16, 4, revival_threshold=0.5), normal(64, 4)
    taken = numbers(forward(layer, {"z": z}, training=True)["codes"])
    shares = np.bincount(taken, minlength=16) / 64
    assert (shares == 0).any() and numbers(layer.counts).min() > 0
    np.testing.assert_allclose(layer.use, shares, rtol=1e-5)


def test_revival_is_on_unless_turned_off(forward):
    layer, z = layers.VectorQuantizer(4, 2), normal(64, 2)
    layer.build((None, 2))
    place(layer, np.concatenate([z[:3], [[50.0, 50.0]]]).astype("float32"))
    layer.initialized.assign(1.0)
    use(layer, [20.0, 20.0, 20.0, 1e-3])
    forward(layer, {"z": z}, training=True)
    assert np.abs(numbers(layer.codes)[3] - z).max(-1).min() < 1e-6


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


def test_a_frozen_quantizer_does_not_learn(forward):
    layer = quantizer(revival_threshold=0.5)
    layer.trainable = False
    before = state(layer)
    forward(layer, {"z": normal(32, 4)}, training=True)
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value, before[name])


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
