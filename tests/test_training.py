import itertools
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VAE, VQVAE, DiffusionTransformer, DiT
from keras_mmai.layers import VectorQuantizer
from keras_mmai.training import TrainingModel, WeightAverage, freeze, gradient_norm

BACKEND = keras.backend.backend()
ROWS = 8
DECAYS = (0.3, 0.999)


def signals(n=ROWS):
    """Waves of different direction and phase, (n, 8, 8, 1) in [-1, 1]."""
    i, h, w = np.meshgrid(np.arange(n), np.arange(8), np.arange(8), indexing="ij")
    return np.sin(0.4 * (i % 3) * h + 0.4 * (i % 2) * w + i).astype("float32")[..., None]


X = signals()
T = np.linspace(0.1, 0.9, ROWS, dtype="float32")
NOISE = np.random.RandomState(0).normal(size=X.shape).astype("float32")
LATENT_NOISE = np.random.RandomState(1).normal(size=(ROWS, 4, 4, 2)).astype("float32")
SIZES = dict(filters=(8,), num_residual_layers=1, residual_filters=8)


def make_vqvae(**kwargs):
    # Revival draws at random, which no saved file restores.
    quantizer = VectorQuantizer(16, 4, revival_threshold=0.0, seed=0)
    return VQVAE((8, 8, 1), quantizer=quantizer, **SIZES, **kwargs)


def make_vae(**kwargs):
    return VAE((8, 8, 1), latent_dim=2, seed=0, **SIZES, **kwargs)


def make_dit(num_layers=1, **kwargs):
    network = DiT((8, 8, 1), patch_size=4, hidden_dim=16, num_layers=num_layers, num_heads=2)
    return DiffusionTransformer(network, seed=0, **{"ema_decays": (), **kwargs})


MODELS = {
    "vqvae": (make_vqvae, {"x": X}),
    "vae": (make_vae, {"x": X, "noise": LATENT_NOISE}),
    "dit": (make_dit, {"x": X, "t": T, "noise": NOISE}),
}
# Warnings are errors, except one of numpy about Keras variables
quiet = pytest.mark.filterwarnings("error", "ignore:__array__ implementation")
each_model = pytest.mark.parametrize("make, batch", MODELS.values(), ids=MODELS)


def state(model):
    """Everything that training changes except the random seeds and the metrics."""
    variables = [v for v in model.variables if "seed" not in v.path] + model.optimizer.variables
    return {f"{i} {v.path}": ops.convert_to_numpy(v.value) for i, v in enumerate(variables)}


def assert_same(before, after):
    assert before
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A model of each kind after two steps, and its batch. Tests leave it trainable and finite."""
    make, batch = MODELS[request.param]
    model = make(ema_decays=DECAYS)
    compile_eagerly(model, keras.optimizers.Adam(1e-2))
    for _ in range(2):
        model.train_on_batch(batch)
    return model, batch


def heavy(test):
    """Slow on JAX, which compiles every new operation for itself where it runs eagerly."""
    return pytest.mark.slow(test) if BACKEND == "jax" else test


def compile_eagerly(model, optimizer):
    """Op by op, where compilation is not what is tested: XLA takes seconds for the smallest model."""
    model.compile(optimizer, run_eagerly=True)


def weights_of(variables):
    return [ops.convert_to_numpy(v.value) for v in variables]


def loss_of(model, batch):
    """The loss at training=False, by the public methods alone."""
    batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
    loss = model.compute_loss(x=batch, y_pred=model(batch, training=False), training=False)
    return float(ops.convert_to_numpy(loss))


def set_deterministic(model):
    """The same weights on every backend."""
    for i, variable in enumerate(model.trainable_variables):
        values = 0.1 * np.cos(np.arange(np.prod(variable.shape)) + i)
        variable.assign(values.reshape(variable.shape).astype("float32"))
    for average in model.averages:
        average.reset(model.trainable_variables)


# What is learned and what is shown


@pytest.mark.parametrize(
    "name, rate, epochs, below",
    [
        pytest.param("vqvae", 2e-2, 40, 0.15, marks=pytest.mark.slow),
        pytest.param("vae", 2e-2, 40, 0.15, marks=pytest.mark.slow),
        ("dit", 2e-2, 60, 0.3),
    ],
)
def test_one_batch_is_overfitted_and_history_names_what_happened(name, rate, epochs, below):
    make, batch = MODELS[name]
    model = make(ema_decays=(0.9,))
    model.compile(keras.optimizers.Adam(rate))
    data = {key: np.concatenate([value] * 5) for key, value in batch.items()}  # 5 steps in an epoch
    history = model.fit(data, batch_size=ROWS, epochs=epochs // 5, validation_data=(batch,), shuffle=False, verbose=0)
    history = history.history
    own = {
        "vqvae": {"reconstruction", "commitment", "perplexity", "codes_in_use"},
        "vae": {"reconstruction", "kl"},
        "dit": {"diffusion"},
    }[name]
    shown = {"loss", *own}
    assert set(history) == {*shown, "gradient_norm", "skipped_steps", *(f"val_{key}" for key in shown)}
    assert history["loss"][-1] < min(below, history["loss"][0] / 3)
    assert history["val_loss"][-1] < 2 * below
    assert history["skipped_steps"] == [0.0] * (epochs // 5)
    assert all(norm > 0 for norm in history["gradient_norm"])
    losses = [key for key in own if key not in ("perplexity", "codes_in_use")]
    for prefix in ("", "val_"):
        total = np.sum([history[prefix + key] for key in losses], axis=0)
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-4)


def test_gradient_norm_is_the_euclidean_one():
    model = make_dit()
    set_deterministic(model)
    before = weights_of(model.trainable_variables)
    compile_eagerly(model, keras.optimizers.SGD(1.0))  # so that the step is the gradient
    logs = model.train_on_batch(MODELS["dit"][1], return_dict=True)
    steps = [b - a for b, a in zip(before, weights_of(model.trainable_variables))]
    np.testing.assert_allclose(logs["gradient_norm"], np.sqrt(sum((s**2).sum() for s in steps)), rtol=1e-3)
    assert float(gradient_norm([ops.array([3.0]), None, ops.array([[4.0]])])) == pytest.approx(5.0)


# Steps that are not finite


def test_a_batch_of_nan_changes_nothing_and_is_counted(trained):
    model, batch = trained
    before = state(model)
    bad = {**batch, "x": np.full_like(batch["x"], np.nan)}
    logs = model.train_on_batch(bad, return_dict=True)
    assert logs["skipped_steps"] == 1.0
    assert np.isfinite(list(logs.values())).all()
    # all but the codebook, which is a quotient of its statistics and is rounded again
    exact, rounded = ({k: v for k, v in before.items() if ("quantizer" in k) == q} for q in (False, True))
    assert_same(exact, state(model))
    for name in rounded:
        np.testing.assert_allclose(state(model)[name], rounded[name], rtol=1e-6, atol=1e-6, err_msg=name)

    before = state(model)
    logs = model.train_on_batch(batch, return_dict=True)
    assert logs["skipped_steps"] == 0.0
    after = state(model)
    changed = " ".join(name for name in before if not np.array_equal(before[name], after[name]))
    assert all(word in changed for word in ("average_0", "average_1", "iteration", "momentum"))
    assert all(np.isfinite(value).all() for value in after.values())


def test_the_means_in_the_progress_bar_leave_skipped_steps_out():
    model = make_dit()
    compile_eagerly(model, keras.optimizers.SGD(0.0))
    batch = MODELS["dit"][1]
    bad = np.concatenate([batch["x"], np.full_like(batch["x"], np.nan)])
    data = {"x": bad, "t": np.tile(T, 2), "noise": np.tile(NOISE, (2, 1, 1, 1))}
    history = model.fit(data, batch_size=ROWS, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1.0]
    np.testing.assert_allclose([history["loss"][0], history["diffusion"][0]], loss_of(model, batch), rtol=1e-5)


# Moving averages


def numpy_average(start, steps, decay):
    average = [w.astype("float64") for w in start]
    for n, weights in enumerate(steps, start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights)]
    return average


@pytest.mark.parametrize("every", [1, 2])
def test_averages_equal_numpy(every):
    model = make_dit(ema_decays=DECAYS)
    steps = None if every == 1 else every
    compile_eagerly(model, keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps))
    start, updates, averages = weights_of(model.trainable_variables), [], []
    for step in range(1, 9):
        model.train_on_batch({"x": X, "t": np.roll(T, step), "noise": NOISE})
        averages.append(weights_of(model.averages[0].average))
        if step % every == 0:
            updates.append(weights_of(model.trainable_variables))
    assert any((a != b).any() for a, b in zip(updates[-1], updates[-2]))
    for index, decay in enumerate(DECAYS):
        expected = numpy_average(start, updates, decay)
        for value, wanted in zip(weights_of(model.averages[index].average), expected):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    moves = [any((a != b).any() for a, b in zip(old, new)) for old, new in itertools.pairwise(averages)]
    assert moves == [step % every == 0 for step in range(2, 9)]


@heavy
def test_averages_stay_float32_and_move_under_a_low_precision_policy():
    keras.config.set_dtype_policy("bfloat16")
    model = make_dit(ema_decays=(0.999,))
    compile_eagerly(model, keras.optimizers.SGD(0.1))
    before = weights_of(model.averages[0].average)
    model.train_on_batch(MODELS["dit"][1])
    model.train_on_batch(MODELS["dit"][1])
    after = weights_of(model.averages[0].average)
    assert {value.dtype.name for value in after} == {"float32"}
    assert any((a != b).any() for a, b in zip(before, after))
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.network.trainable_variables} == {"bfloat16"}


@heavy
def test_accumulation_is_seen_through_a_loss_scale_optimizer():
    model = make_dit(ema_decays=(0.3,))
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    compile_eagerly(model, keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0))
    averages = []
    for step in range(4):
        model.train_on_batch({"x": X, "t": np.roll(T, step), "noise": NOISE})
        averages.append(weights_of(model.averages[0].average))
    moves = [any((a != b).any() for a, b in zip(old, new)) for old, new in itertools.pairwise(averages)]
    assert moves == [True, False, True]


def test_averaged_weights_by_index():
    model = make_dit(ema_decays=DECAYS)
    assert all(a is b for a, b in zip(model.averaged_weights(1), model.averages[1].average))
    with pytest.raises(ValueError, match=r"one of 0\.\.1 .*Received: index=2"):
        model.averaged_weights(2)
    model = make_dit()
    assert all(a is b for a, b in zip(model.averaged_weights(), model.trainable_variables))
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        WeightAverage(1.0)


# Validation


def test_evaluate_uses_the_first_average_and_changes_nothing(trained):
    model, batch = trained
    before = state(model)
    evaluated = model.evaluate(batch, batch_size=ROWS, return_dict=True, verbose=0)
    assert_same(before, state(model))
    assert not {"gradient_norm", "skipped_steps"} & set(evaluated)
    raw, weights = loss_of(model, batch), weights_of(model.trainable_variables)
    for variable, average in zip(model.trainable_variables, weights_of(model.averages[0].average)):
        variable.assign(average)
    averaged = loss_of(model, batch)
    for variable, value in zip(model.trainable_variables, weights):
        variable.assign(value)
    assert evaluated["loss"] == pytest.approx(averaged, rel=1e-5)
    assert evaluated["loss"] != pytest.approx(raw, rel=1e-4)


def test_validation_batches_see_different_noise():
    model = make_dit(ema_decays=(0.9,))
    compile_eagerly(model, keras.optimizers.SGD(0.1))
    twice = {"x": np.concatenate([X, X])}
    seed = model.seed_generator.state
    start = ops.convert_to_numpy(seed.value).copy()
    one, two = (model.test_on_batch({"x": X}, return_dict=True)["loss"] for _ in range(2))
    assert one != pytest.approx(two, rel=1e-3)
    seed.assign(start)
    assert model.evaluate(twice, batch_size=ROWS, verbose=0)[0] == pytest.approx((one + two) / 2, rel=1e-5)


# Variants of compile


def fitted(optimizer=None, **kwargs):
    model = make_vae(ema_decays=(0.3,))
    set_deterministic(model)
    model.compile(optimizer or keras.optimizers.SGD(0.05), **kwargs)
    data = {"x": np.concatenate([X, -X]), "noise": np.concatenate([LATENT_NOISE, -LATENT_NOISE])}
    history = model.fit(data, batch_size=ROWS, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], weights_of(model.averages[0].average)


@pytest.fixture(scope="module")
def plain():
    """Of a VAE, since JAX has no float16 attention on a CPU."""
    return fitted(jit_compile=False)


VARIANTS = {
    "jit": dict(jit_compile=True),
    "eager": dict(run_eagerly=True),
    "steps_per_execution": dict(steps_per_execution=2, jit_compile=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_compile_variants_give_the_same_numbers(name, plain):
    if BACKEND == "torch" and name != "eager":
        pytest.skip("torch.compile takes minutes here, and Keras has one step in an execution on torch")
    losses, average = fitted(**VARIANTS[name])
    np.testing.assert_allclose(losses, plain[0], rtol=1e-4)
    for value, wanted in zip(average, plain[1]):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_nearly_the_same_numbers(policy, plain):
    keras.config.set_dtype_policy(policy)
    losses, average = fitted()
    np.testing.assert_allclose(losses, plain[0], rtol=0.02)
    assert max(np.abs(value - wanted).max() for value, wanted in zip(average, plain[1])) < 0.02


def test_the_loss_scale_falls_on_overflow_until_training_goes_on():
    keras.config.set_dtype_policy("mixed_float16")
    model, batch = make_vae(ema_decays=(0.3,)), MODELS["vae"][1]
    set_deterministic(model)
    model.compile(keras.optimizers.SGD(0.05))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.optimizer.initial_scale = 2.0**26
    before = weights_of(model.trainable_variables)
    data = {key: np.concatenate([value] * 25) for key, value in batch.items()}
    history = model.fit(data, batch_size=ROWS, verbose=0, shuffle=False).history
    skipped = history["skipped_steps"][0]
    assert 3 <= skipped < 25
    assert float(model.optimizer.dynamic_scale) == 2.0 ** (26 - skipped)
    assert int(model.optimizer.iterations) == 25 - skipped
    assert np.isfinite(history["loss"][0]) and 0 < history["gradient_norm"][0] < 100
    after = weights_of([*model.trainable_variables, *model.averages[0].average])
    assert all(np.isfinite(value).all() for value in after)
    assert any((a != b).any() for a, b in zip(before, after))


# Losses


def test_the_loss_is_the_formula_of_flow_matching():
    model = make_dit()
    set_deterministic(model)
    batch = MODELS["dit"][1]
    t = T.reshape(-1, 1, 1, 1)
    output = ops.convert_to_numpy(model.network((1 - t) * X + t * NOISE, T))
    expected = np.mean((output - (NOISE - X)) ** 2)
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)
    assert loss_of(model, batch) == loss_of(model, batch)
    free = {"x": X}
    assert loss_of(model, free) != loss_of(model, free)


def test_sample_weight_weighs_examples():
    model = make_dit()
    set_deterministic(model)
    compile_eagerly(model, keras.optimizers.SGD(0.0))
    weight = np.linspace(0.0, 2.0, ROWS).astype("float32")
    batch = MODELS["dit"][1]
    single = [loss_of(model, {key: value[i : i + 1] for key, value in batch.items()}) for i in range(ROWS)]
    # Keras drops the weights where there is no y
    history = model.fit(batch, np.zeros(ROWS), sample_weight=weight, batch_size=ROWS, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.mean(weight * single), rel=1e-5)
    assert history["loss"][0] != pytest.approx(np.mean(single), rel=1e-3)


def test_a_subclass_must_name_its_losses():
    with pytest.raises(NotImplementedError):
        TrainingModel().named_losses({}, {})


# Saving


@quiet
def test_a_loaded_model_goes_on_identically(trained, tmp_path):
    model, batch = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.ema_decays == DECAYS
    assert_same(dict(enumerate(state(model).values())), dict(enumerate(state(loaded).values())))
    ours, theirs = (m.train_on_batch(batch, return_dict=True) for m in (model, loaded))
    assert ours == theirs
    assert_same(dict(enumerate(state(model).values())), dict(enumerate(state(loaded).values())))


@heavy
@quiet
def test_a_tokenizer_that_was_compiled_is_loaded_quietly_and_stays_frozen(tmp_path):
    tokenizer = make_vqvae()
    compile_eagerly(tokenizer, "adam")
    tokenizer.train_on_batch(X)
    network = DiT(tokenizer.latent_shape, patch_size=1, hidden_dim=16, num_layers=1, num_heads=2)
    model = DiffusionTransformer(network, tokenizer=tokenizer, ema_decays=(0.9,))
    compile_eagerly(model, "adam")
    model.train_on_batch({"x": X})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.tokenizer.compiled and not loaded.tokenizer.trainable_variables
    assert len(loaded.trainable_variables) == len(network.trainable_variables) == len(loaded.averages[0].average)
    np.testing.assert_array_equal(*[ops.convert_to_numpy(m.tokenizer.encode(X)) for m in (model, loaded)])
    loaded.train_on_batch({"x": X})


@each_model
def test_a_clone_is_the_same_model_with_new_weights(make, batch):
    model = make(ema_decays=DECAYS)
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    assert not set(map(id, clone.variables)) & set(map(id, model.variables))
    clone.set_weights(model.get_weights())
    assert loss_of(clone, batch) == pytest.approx(loss_of(model, batch), rel=1e-5)


def test_freeze_reaches_every_layer_of_a_model_that_says_it_is_frozen():
    model = make_vae()
    model._trainable = False  # what a loaded model looks like: the flag is down, the layers are trainable
    freeze(model)
    assert not model.trainable_variables and not model.encoder.trainable_variables


# Wrappers that replace the step


GOLDEN = {"vqvae": 0.4551611, "vae": 0.3761888, "dit": 1.4806517}  # the same on every backend


@pytest.mark.parametrize("name", GOLDEN)
def test_a_step_of_ones_own_needs_call_and_compute_loss_alone(name):
    make, batch = MODELS[name]
    model = make()
    set_deterministic(model)
    if name == "vqvae":
        model.quantizer.embeddings.assign(np.sin(np.arange(64.0)).reshape(16, 4))
    first, second = (loss_of(model, batch) for _ in range(2))
    assert first == second  # the losses of layers are those of the last call
    assert first == pytest.approx(GOLDEN[name], rel=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the stateless step of a wrapper is JAX's")
@each_model
def test_the_stateless_step_of_a_wrapper_gives_the_same_loss(make, batch):
    import jax

    model = make(ema_decays=DECAYS)
    set_deterministic(model)
    compile_eagerly(model, "sgd")
    trainable, fixed, metrics = (
        [v.value for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
    )

    def loss(trainable, batch):
        y_pred, state, losses = model.stateless_call(trainable, fixed, batch, training=False, return_losses=True)
        model._losses_override = losses
        value, _ = model.stateless_compute_loss(trainable, state, metrics, x=batch, y_pred=y_pred, training=False)
        model._losses_override = []
        return value

    @jax.jit
    def step(trainable, batch):
        # one example at a time, as differential privacy needs it
        each = jax.vmap(jax.grad(lambda t, row: loss(t, {k: v[None] for k, v in row.items()})), in_axes=(None, 0))
        return *jax.value_and_grad(loss)(trainable, batch), each(trainable, batch)

    whole, gradients, each = step(trainable, batch)
    assert float(whole) == pytest.approx(loss_of(model, batch), rel=1e-5)
    for gradient, rows in zip(gradients, each):
        np.testing.assert_allclose(rows.mean(0), gradient, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc is meant")
def test_freed_memory_is_used_again():
    code = (
        "import resource, numpy as np\n"
        "from keras_mmai.training import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "faults = []\n"
        "for _ in range(10):\n"
        "    np.full(2**24, 1, 'float32')\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(faults[-1] - faults[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100  # 64 MiB nine times again: 16,384 small pages each time, or 32 large ones
