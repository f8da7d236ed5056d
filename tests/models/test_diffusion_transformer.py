import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VAE, VQVAE, DiffusionTransformer, DiT
from keras_mmai.diffusion import GaussianDiffusion, UniformTimes, VPCosine
from keras_mmai.layers import VectorQuantizer

X = np.random.RandomState(0).uniform(-1, 1, size=(6, 8, 8, 1)).astype("float32")
T = np.linspace(0.1, 0.9, 6, dtype="float32")
LABELS = np.arange(6, dtype="int32") % 3
SMALL = dict(patch_size=2, hidden_dim=16, num_layers=1, num_heads=2)
SIZES = dict(filters=(8,), num_residual_layers=1, residual_filters=8)


def make_tokenizer(cls=VAE):
    options = dict(latent_dim=2, seed=0) if cls is VAE else dict(quantizer=VectorQuantizer(16, 4, seed=0))
    return cls((8, 8, 1), **SIZES, **options)


def make(tokenizer=None, num_classes=None, **kwargs):
    network = DiT(tokenizer.latent_shape if tokenizer else (8, 8, 1), num_classes=num_classes, **SMALL)
    for variable in network.trainable_variables:  # a fresh DiT returns zero, whatever it is told
        variable.assign(0.1 * keras.random.normal(variable.shape, seed=1))
    return DiffusionTransformer(network, tokenizer=tokenizer, seed=0, **{"ema_decays": (), **kwargs})


def outputs(model, batch):
    batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
    return {name: ops.convert_to_numpy(value) for name, value in model(batch).items()}


def noise_like(shape):
    return np.random.RandomState(1).normal(size=(6, *shape)).astype("float32")


def test_an_array_alone_is_x_and_what_is_not_given_is_drawn():
    model = make()
    first, second = (ops.convert_to_numpy(model(X)["target"]) for _ in range(2))
    assert first.shape == X.shape and (first != second).any()
    t = ops.convert_to_numpy(model(X)["t"])
    cuts = ops.convert_to_numpy(model.process.times(np.linspace(0, 1, 7).astype("float32")))
    assert ((cuts[:-1] <= t) & (t <= cuts[1:])).all()  # one time of each stratum


@pytest.mark.parametrize("cls", [VAE, VQVAE])
def test_latents_given_are_the_same_as_encoded_in_the_step(cls):
    tokenizer = make_tokenizer(cls)
    latents = tokenizer.predict(X, verbose=0)["latents"]
    model = make(tokenizer)
    given = {"t": T, "noise": noise_like(tokenizer.latent_shape)}
    from_x, from_latents = outputs(model, {"x": X, **given}), outputs(model, {"latents": latents, **given})
    for name in from_x:
        np.testing.assert_allclose(from_x[name], from_latents[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(from_latents["target"], given["noise"] - latents, atol=1e-5)


@pytest.mark.parametrize("prediction", ["data", "noise", "velocity", "v"])
def test_the_process_decides_the_target(prediction):
    process = GaussianDiffusion(VPCosine(), prediction, UniformTimes())
    model = make(process=process)
    batch = {"x": X, "t": T, "noise": noise_like((8, 8, 1))}
    x_t, target = (ops.convert_to_numpy(value) for value in process.corrupt(X, T, batch["noise"]))
    result = outputs(model, batch)
    np.testing.assert_allclose(result["target"], target, atol=1e-6)
    np.testing.assert_allclose(result["output"], ops.convert_to_numpy(model.network(x_t, T)), atol=1e-5)


def test_labels_reach_the_network():
    model = make(num_classes=3)
    batch = {"x": X, "t": T, "noise": noise_like((8, 8, 1))}
    one, same, other = (outputs(model, {**batch, "labels": y})["output"] for y in (LABELS, LABELS, (LABELS + 1) % 3))
    np.testing.assert_array_equal(one, same)
    assert (np.abs(one - other).max(axis=(1, 2, 3)) > 1e-5).all()


def test_the_tokenizer_is_frozen_and_training_leaves_it_as_it_is(tmp_path):
    tokenizer = make_tokenizer(VQVAE)
    assert tokenizer.trainable_variables
    model = make(tokenizer, ema_decays=(0.5,))
    assert not tokenizer.trainable_variables
    model.compile("adam", run_eagerly=True)
    before = tokenizer.get_weights()
    start = [ops.convert_to_numpy(v.value).copy() for v in model.trainable_variables]
    logs = model.train_on_batch({"x": X}, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["diffusion"], rel=1e-6)  # nothing of the tokenizer's own losses
    for a, b in zip(before, tokenizer.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert any((a != ops.convert_to_numpy(v.value)).any() for a, v in zip(start, model.trainable_variables))

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [v.path for v in loaded.trainable_variables]
    assert len(paths) == len(model.network.trainable_variables) and not any("codes" in path for path in paths)
    assert not loaded.tokenizer.trainable_variables
    given = {"x": X, "t": T, "noise": noise_like(tokenizer.latent_shape)}
    np.testing.assert_array_equal(outputs(model, given)["output"], outputs(loaded, given)["output"])
    assert loaded.process == model.process


@pytest.mark.parametrize(
    "classes, batch, message",
    [
        (3, {"x": X}, r"network has 3 classes: the batch needs 'labels' \(b,\) int32. Received keys: \['x'\]"),
        (None, {"x": X, "labels": LABELS}, "num_classes=None"),
        (None, {"y": X}, r"needs 'x' \(signals\). Received keys: \['y'\]"),
        (None, {"latents": X}, r"needs 'x' \(signals\). Received keys: \['latents'\]"),
        (None, {"x": X[:, :4]}, r"network takes \('b', 8, 8, 1\), channels last. Received 'x' of shape \(6, 4, 8, 1\)"),
        (None, {"x": X, "noise": X[:, :4], "t": T}, "must have the same shape"),
    ],
)
def test_errors_name_what_is_missing_or_wrong(classes, batch, message):
    with pytest.raises(ValueError, match=message):
        outputs(make(num_classes=classes), batch)


def test_errors_with_a_tokenizer():
    tokenizer = make_tokenizer()
    model = make(tokenizer)
    with pytest.raises(ValueError, match=r"or 'latents'. Received keys: \['y'\]"):
        outputs(model, {"y": X})
    with pytest.raises(ValueError, match=r"takes signals of shape \('b', 8, 8, 1\)"):
        outputs(model, {"x": X[:, :4]})
    with pytest.raises(ValueError, match=r"\('b', 4, 4, 2\), channels last. Received 'latents' of shape"):
        outputs(model, {"latents": X})
    network = DiT((8, 8, 1), **SMALL)
    with pytest.raises(ValueError, match=r"network takes \(8, 8, 1\), but .* latents are \(4, 4, 2\)"):
        DiffusionTransformer(network, tokenizer=make_tokenizer())


def test_generator_takes_the_weights_of_the_average_asked_for():
    model = make(ema_decays=(0.5, 0.9))
    for i, average in enumerate(model.averages):
        for variable in average.average:
            variable.assign(ops.full(variable.shape, 0.01 * (i + 1)))
    for i in range(2):
        generator = model.generator(num_steps=1, average=i)
        values = [
            np.unique(ops.convert_to_numpy(v.value))
            for v in generator.network.weights
            if "position_table" not in v.path
        ]
        np.testing.assert_allclose(np.concatenate(values), 0.01 * (i + 1), rtol=1e-6)
        assert generator.network is not model.network and not generator.trainable_variables
        assert generator.process is model.process
    with pytest.raises(ValueError, match="index=2"):
        model.generator(average=2)
    plain = make()
    for a, b in zip(plain.network.weights, plain.generator().network.weights):
        np.testing.assert_array_equal(ops.convert_to_numpy(a.value), ops.convert_to_numpy(b.value))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_generator_is_compiled_as_the_model_is(jit_compile):
    model = make()
    model.compile("sgd", jit_compile=jit_compile)
    assert model.generator().jit_compile is jit_compile


def test_a_model_trains_on_after_it_gave_a_generator():
    """JAX donates the buffers of a step: the generator may not hold the model's."""
    model = make(ema_decays=(0.5,))
    model.compile("sgd")
    model.train_on_batch({"x": X})
    generator = model.generator(num_steps=1)
    model.train_on_batch({"x": X})
    assert np.isfinite(generator.generate(2)).all()
