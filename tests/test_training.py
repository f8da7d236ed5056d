import keras
import numpy as np
import pytest
from keras import ops
from small_models import (
    BACKEND,
    DECAYS,
    MODELS,
    NOISE,
    ROWS,
    SIZES,
    T,
    X,
    assert_same,
    compile_eagerly,
    each_model,
    heavy,
    loss_of,
    make_dit,
    make_vae,
    make_vqvae,
    set_deterministic,
    state,
    weights_of,
)

from keras_mmai import VQVAE, DiffusionTransformer, DiT
from keras_mmai.data import ArrayDataset
from keras_mmai.layers import SimVQ, VectorQuantizer
from keras_mmai.training import TrainingModel, freeze, gradient_norm


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A model of each kind after two steps, and its batch. Tests leave it trainable and finite."""
    make, batch = MODELS[request.param]
    model = make(ema_decays=DECAYS)
    compile_eagerly(model, keras.optimizers.Adam(1e-2))
    for _ in range(2):
        model.train_on_batch(batch)
    return model, batch


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


def test_a_batch_of_nan_changes_nothing_and_is_counted(trained):
    model, batch = trained
    before = state(model)
    signal = next(iter(batch))
    bad = {**batch, signal: np.full_like(batch[signal], np.nan)}
    logs = model.train_on_batch(bad, return_dict=True)
    assert logs["skipped_steps"] == 1.0
    assert all(np.isnan(logs[name]) for name in ("loss", *model.trackers) if name != "commitment")
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


@pytest.mark.parametrize("name", [pytest.param("vqvae", marks=pytest.mark.slow), "dit"])
def test_a_compiled_step_skips_a_batch_of_nan_too(name):
    make, batch = MODELS[name]
    model = make(ema_decays=DECAYS)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=BACKEND != "torch")
    model.train_on_batch(batch)
    before = state(model)
    logs = model.train_on_batch({**batch, "x": np.full_like(batch["x"], np.nan)}, return_dict=True)
    assert logs["skipped_steps"] == 1.0
    for key, value in state(model).items():
        np.testing.assert_allclose(value, before[key], rtol=1e-6, atol=1e-6, err_msg=key)
    model.train_on_batch(batch)
    after = state(model)
    changed = " ".join(key for key in before if not np.array_equal(before[key], after[key]))
    assert all(word in changed for word in ("average_0", "average_1", "iteration", "momentum"))


def generator(batches):
    yield from batches


def test_without_one_finite_step_the_losses_are_nan():
    model = make_dit()
    compile_eagerly(model, "sgd")
    bad = {**MODELS["dit"][1], "x": np.full_like(X, np.nan)}
    train, validation = (generator([(bad,)] * 2) for _ in range(2))  # what comes as a whole is refused at once
    history = model.fit(
        train, steps_per_epoch=1, epochs=2, shuffle=False, validation_data=validation, validation_steps=1, verbose=0
    ).history
    assert history["skipped_steps"] == [1.0, 1.0]
    for name in ("loss", "diffusion", "val_loss", "val_diffusion"):
        assert np.isnan(history[name]).all(), name


def test_nan_in_data_that_is_there_as_a_whole_is_refused():
    model, batch = make_dit(), dict(MODELS["dit"][1])
    compile_eagerly(model, "sgd")
    batch["x"] = batch["x"].copy()
    batch["x"][3, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"must be finite. Received: NaN in 1 of 8 examples, the first at index 3"):
        model.fit(batch, batch_size=ROWS, verbose=0)


def test_the_means_in_the_progress_bar_leave_skipped_steps_out():
    model = make_dit()
    compile_eagerly(model, keras.optimizers.SGD(0.0))
    batch = MODELS["dit"][1]
    bad = {**batch, "x": np.full_like(batch["x"], np.nan)}
    history = model.fit(generator([(batch,), (bad,)]), steps_per_epoch=2, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1.0]
    np.testing.assert_allclose([history["loss"][0], history["diffusion"][0]], loss_of(model, batch), rtol=1e-5)


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
    first = model.test_on_batch({"x": X}, return_dict=True)["loss"]
    seed.assign([0, 2**30])  # where `evaluate` begins
    one, two = (model.test_on_batch({"x": X}, return_dict=True)["loss"] for _ in range(2))
    assert one != pytest.approx(two, rel=1e-3)
    seed.assign(start)
    assert model.evaluate(twice, batch_size=ROWS, verbose=0)[0] == pytest.approx((one + two) / 2, rel=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(seed.value), start)
    assert one != pytest.approx(first, rel=1e-3)  # the first batch of a training has noise of its own


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
    expected, y = np.mean(weight * single), np.zeros(ROWS)
    options = dict(sample_weight=weight, batch_size=ROWS, verbose=0)
    assert expected != pytest.approx(np.mean(single), rel=1e-3)
    history = model.fit(batch, **options, validation_data=[batch, None, weight]).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert model.fit(batch, y, **options).history["loss"][0] == pytest.approx(expected, rel=1e-5)
    weighed, whole = model.evaluate(batch, y, **options)[0], model.evaluate(batch, verbose=0)[0]
    assert weighed != pytest.approx(whole, rel=1e-3)
    assert history["val_loss"][0] == pytest.approx(weighed, rel=1e-5)
    assert model.evaluate(batch, **options)[0] == pytest.approx(weighed, rel=1e-5)
    model.compile("sgd", metrics=["mse"])
    with pytest.raises(ValueError, match="Metrics of `compile` need a `y`"):
        model.fit(batch, **options)


def test_what_cannot_be_trained_is_an_error():
    model = make_dit()
    model.compile("sgd", loss="mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"losses of its own \(diffusion\): leave `loss` out.*'mse'"):
        model.train_on_batch(MODELS["dit"][1])
    model = make_dit()
    compile_eagerly(model, "sgd")
    freeze(model.network)
    with pytest.raises(ValueError, match=r"nothing to train.*set `trainable = True`"):
        model.train_on_batch(MODELS["dit"][1])


@pytest.mark.parametrize(
    "make, data, message",
    [
        (make_vqvae, {"x": np.full((8, 8, 8, 1), 255, "uint8")}, "float in .* Received: uint8. For 8-bit images"),
        (make_vae, 255 * X, r"must lie in \[-1, 1\]. Received: values from -25\d.* to 25\d"),
        (make_dit, 255 * X, r"must lie in \[-1, 1\]"),
        (make_dit, ArrayDataset(255 * X, ROWS), r"must lie in \[-1, 1\]"),
        (lambda: make_dit(num_classes=3), {"x": X, "labels": np.arange(8)}, r"must be 0\.\.2. .* from 0 to 7"),
        (lambda: make_dit(num_classes=3), {"x": X, "labels": np.zeros((8, 1), int)}, r"squeeze .*shape \(8, 1\)"),
    ],
)
def test_values_that_a_compiled_step_cannot_see_are_checked_at_the_door(make, data, message):
    model = make()
    model.compile("sgd")
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            method(data, verbose=0)


def make_gradient_vqvae(dtype="float32"):
    quantizer = VectorQuantizer(
        16, 4, codebook="gradient", initialization="uniform", revival_threshold=0.0, seed=0, dtype=dtype
    )
    return VQVAE((8, 8, 1), quantizer=quantizer, ema_decays=(), dtype=dtype, **SIZES)


def test_weight_decay_moves_no_code_without_a_gradient():
    model = make_gradient_vqvae()
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1))
    variables = model.trainable_variables
    before = weights_of(variables)
    model.optimizer.apply([ops.zeros_like(v.value) for v in variables], variables)
    for variable, old, new in zip(variables, before, weights_of(variables)):
        np.testing.assert_allclose(new, old if variable is model.quantizer.embeddings else 0.99 * old, rtol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_weight_decay_leaves_out_codes_and_what_the_caller_has_left_out(policy, tmp_path):
    def decayed(model):
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        return {v.name for v in model.trainable_variables if optimizer._use_weight_decay(v)}

    model, optimizer = make_gradient_vqvae(policy), keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer)
    assert decayed(model) == {"kernel"}
    model.optimizer.build(model.trainable_variables)
    model.compile(model.optimizer)  # which can't be told any more
    assert decayed(model) == {"kernel"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled and decayed(loaded) == {"kernel", "bias"}  # Keras does not save what a caller leaves out


@pytest.mark.parametrize("make", [VectorQuantizer, SimVQ])
def test_weights_of_another_codebook_are_refused_and_change_nothing(make, tmp_path):
    small, large = (VQVAE((8, 8, 1), quantizer=make(k, 4), ema_decays=(), **SIZES) for k in (16, 32))
    small.save_weights(tmp_path / "small.weights.h5")
    before = weights_of(large.variables)
    with pytest.raises(ValueError, match=r"has a codebook of shape \(32, 4\). Received: a file with one of \(16, 4\)"):
        large.load_weights(tmp_path / "small.weights.h5")
    for old, new in zip(before, weights_of(large.variables)):
        np.testing.assert_array_equal(new, old)


def test_a_subclass_must_name_its_losses():
    with pytest.raises(NotImplementedError):
        TrainingModel().named_losses({}, {})


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
def test_a_tokenizer_that_was_compiled_stays_frozen_when_loaded(tmp_path):
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
