import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VAE, DiT, Generator
from keras_mmai.diffusion import DDIM, Ancestral, ClassifierFreeGuidance, Euler, GaussianDiffusion, Heun, normal
from keras_mmai.training import freeze

CLASSES = 3
SEEDS = np.array([[0, i] for i in range(5)], "int32")
LABELS = np.array([0, 1, 2, 3, 1], "int32")  # 3: no label


# JAX compiles every new shape and operation, for seconds each
HEAVY = [pytest.mark.slow] if keras.backend.backend() == "jax" else []


def heavy(test):
    return pytest.mark.slow(test) if HEAVY else test


def make_network(shape=(4, 4, 1), num_classes=CLASSES):
    network = DiT(shape, patch_size=2, hidden_dim=16, num_layers=1, num_heads=2, num_classes=num_classes)
    for i, variable in enumerate(network.trainable_variables):  # a fresh DiT returns zero, whatever it is told
        variable.assign(0.3 * keras.random.normal(variable.shape, seed=i))
    freeze(network)
    return network


def make(num_classes=CLASSES, **kwargs):
    return Generator(make_network(num_classes=num_classes), GaussianDiffusion(), **{"num_steps": 4, **kwargs})


def make_latent(**kwargs):
    tokenizer = VAE((8, 8, 1), filters=(8,), latent_dim=2, num_residual_layers=1, residual_filters=8, seed=0)
    return Generator(make_network(tokenizer.latent_shape), GaussianDiffusion(), tokenizer, num_steps=2, **kwargs)


def call(model, **inputs):
    return ops.convert_to_numpy(model({name: ops.convert_to_tensor(value) for name, value in inputs.items()}))


@pytest.mark.parametrize(
    "sampler",
    [Euler(), Ancestral(), *(pytest.param(s, marks=HEAVY) for s in (Heun(), DDIM(), Ancestral(0.0)))],
    ids=repr,
)
def test_a_row_depends_on_its_seed_and_label_alone(sampler):
    model = make(sampler=sampler)
    whole = call(model, seed=SEEDS, labels=LABELS)
    assert whole.shape == (5, 4, 4, 1) and whole.dtype == "float32"
    assert np.isfinite(whole).all() and np.abs(whole).max() <= 1
    order = [3, 0]
    np.testing.assert_allclose(call(model, seed=SEEDS[order], labels=LABELS[order]), whole[order], atol=1e-5)
    assert np.abs(whole[1] - whole[4]).max() > 1e-3  # one label, two seeds
    other = call(model, seed=SEEDS, labels=(LABELS + 1) % 3)
    assert (np.abs(whole - other).max(axis=(1, 2, 3)) > 1e-4).all()


def test_predict_equals_call_whatever_the_batch():
    model = make(sampler=Euler())
    predicted = model.predict({"seed": SEEDS, "labels": LABELS}, batch_size=2, verbose=0)
    np.testing.assert_allclose(predicted, call(model, seed=SEEDS, labels=LABELS), atol=1e-5)


@pytest.mark.parametrize("sampler", [pytest.param(None, marks=HEAVY), Ancestral()], ids=repr)
def test_the_last_state_of_the_trajectory_is_the_sample(sampler):
    model = make(sampler=sampler)
    states = ops.convert_to_numpy(model.trajectory({"seed": SEEDS, "labels": LABELS}))
    assert states.shape == (5, 5, 4, 4, 1)
    np.testing.assert_allclose(states[-1], call(model, seed=SEEDS, labels=LABELS), atol=1e-5)
    np.testing.assert_allclose(states[0], np.clip(ops.convert_to_numpy(normal(SEEDS, (4, 4, 1))), -1, 1), atol=1e-5)
    assert np.abs(states[1] - states[0]).max() > 1e-3


@heavy
def test_noise_is_another_way_to_say_seed():
    model = make()
    noise = ops.convert_to_numpy(normal(SEEDS, (4, 4, 1)))
    np.testing.assert_allclose(
        call(model, noise=noise, labels=LABELS), call(model, seed=SEEDS, labels=LABELS), atol=1e-6
    )
    bare = make(num_classes=None)
    array = ops.convert_to_numpy(bare(noise))
    np.testing.assert_allclose(array, call(bare, noise=noise), atol=1e-6)


def guided_by_hand(model, scale, steps):
    """Euler on the velocity (Ho & Salimans 2022, equation 6), with the two halves run apart."""
    x = ops.convert_to_numpy(normal(SEEDS, (4, 4, 1)))
    nulls = np.full(5, CLASSES, "int32")
    for i in range(steps):
        t = np.full(5, 1 - i / steps, "float32")
        cond, null = (ops.convert_to_numpy(model.network(x, t, y)) for y in (LABELS, nulls))
        used = scale(t[0])
        x = x - (null + used * (cond - null)) / steps
    return np.clip(x, -1, 1)


@pytest.mark.parametrize(
    "guidance, scale",
    [
        (None, lambda t: 1.0),
        (ClassifierFreeGuidance(2.0), lambda t: 2.0),
        (ClassifierFreeGuidance(3.0, (0.3, 0.8)), lambda t: 3.0 if 0.3 <= t <= 0.8 else 1.0),
    ],
)
def test_guidance(guidance, scale):
    model = make(sampler=Euler(), guidance=guidance)
    np.testing.assert_allclose(call(model, seed=SEEDS, labels=LABELS), guided_by_hand(model, scale, 4), atol=1e-4)
    if guidance is not None:
        plain = make(sampler=Euler())
        plain.set_weights(model.get_weights())
        assert np.abs(call(model, seed=SEEDS, labels=LABELS) - call(plain, seed=SEEDS, labels=LABELS)).max() > 1e-3


@heavy
def test_latents_are_decoded():
    model = make_latent()
    x = call(model, seed=SEEDS, labels=LABELS)
    assert x.shape == (5, 8, 8, 1) and np.abs(x).max() <= 1
    plain = Generator(model.network, model.process, num_steps=2)
    start, _ = plain._start({"seed": SEEDS})
    latents = plain.sampler(plain._denoiser({"labels": LABELS}), start, np.array([1, 0.5, 0], "float32"))
    np.testing.assert_allclose(x, ops.convert_to_numpy(model.tokenizer.decode(latents)), atol=1e-5)


@heavy
def test_generate():
    model = make(num_steps=1, sampler=Euler())
    each = model.generate(labels=[0, 1, 2], seed=7)
    assert each.shape == (3, 4, 4, 1)
    np.testing.assert_allclose(each, call(model, seed=[[7, 0], [7, 1], [7, 2]], labels=[0, 1, 2]), atol=1e-5)
    np.testing.assert_allclose(model.generate(5, labels=2, seed=7)[2], each[2], atol=1e-5)  # one label for all
    unlabelled = model.generate(2)
    np.testing.assert_allclose(unlabelled, call(model, seed=SEEDS[:2], labels=[3, 3]), atol=1e-5)
    assert model.generate().shape == (1, 4, 4, 1)
    assert np.abs(model.generate(2, seed=1) - unlabelled).max() > 1e-3
    assert make(num_classes=None, num_steps=1).generate(3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(labels=[0, 3]), r"must be 0\.\.2. Received: values from 0 to 3"),
        (dict(labels=[[0], [1]]), r"squeeze \(b, 1\).*shape \(2, 1\)"),
        (dict(labels=[0.5]), "integers .*float64"),
        (dict(labels=[]), "integers|nothing to generate"),
        (dict(num_samples=0), "nothing to generate: num_samples=0"),
        (dict(num_samples=1, seed=2**32), "fit 32 bits"),
        (dict(labels=-1), r"must be 0\.\.2"),
        (dict(num_samples=3, labels=[0, 1]), "2 labels for num_samples=3"),
    ],
)
def test_generate_refuses_wrong_labels(arguments, message):
    with pytest.raises(ValueError, match=message):
        make().generate(**arguments)


def test_errors_teach():
    with pytest.raises(ValueError, match=r"`sampler` must be a `keras_mmai.diffusion.Sampler`. Received: 'euler'"):
        make(sampler="euler")
    with pytest.raises(ValueError, match=r"`process` must be a `keras_mmai.diffusion.GaussianDiffusion`"):
        Generator(make_network(), "flow")
    with pytest.raises(ValueError, match=r"at least 1. Received: 0"):
        make(num_steps=0)
    with pytest.raises(ValueError, match="Guidance needs a network with classes"):
        make(num_classes=None, guidance=ClassifierFreeGuidance(2.0))
    with pytest.raises(ValueError, match="no classes: leave `labels` out"):
        make(num_classes=None).generate(labels=1)
    with pytest.raises(ValueError, match=r"'labels' are needed.*Received keys: \['seed'\], num_classes=3"):
        call(make(), seed=SEEDS)
    with pytest.raises(ValueError, match=r"'labels' are needed.*num_classes=None"):
        call(make(num_classes=None), seed=SEEDS, labels=LABELS)
    noise = np.zeros((5, 4, 4, 1), "float32")
    for inputs in ({"labels": LABELS}, {"labels": LABELS, "seed": SEEDS, "noise": noise}):
        with pytest.raises(ValueError, match=r"Give 'seed' \(b, 2\) int32 or 'noise' \('b', 4, 4, 1\)"):
            call(make(), **inputs)
    with pytest.raises(ValueError, match=r"Ancestral\(eta=1.0\) draws noise.*give 'seed'"):
        call(make(sampler=Ancestral()), noise=noise, labels=LABELS)


@pytest.mark.filterwarnings("error", "ignore:__array__ implementation")
def test_a_loaded_generator_is_the_same(tmp_path):
    model = make_latent(sampler=Ancestral(0.5), guidance=ClassifierFreeGuidance(2.0, (0.2, 0.8)))
    model.tokenizer.compile("adam")
    model.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    for name in ("process", "sampler", "guidance", "num_steps"):
        assert getattr(loaded, name) == getattr(model, name)
    expected = call(model, seed=SEEDS, labels=LABELS)
    np.testing.assert_allclose(call(loaded, seed=SEEDS, labels=LABELS), expected, atol=1e-6)


def test_a_golden_sample_is_the_same_on_every_backend():
    network = make_network(num_classes=None)
    for i, variable in enumerate(v for v in network.weights if "position_table" not in v.path):
        values = 0.1 * np.cos(1.7 * np.arange(np.prod(variable.shape)) + i)
        variable.assign(values.reshape(variable.shape).astype("float32"))
    model = Generator(network, GaussianDiffusion(), num_steps=3)
    sample = call(model, seed=[[5, 6]])[0, 3, :, 0]
    np.testing.assert_allclose(sample, [0.11434174, -0.31470868, -0.5799918, 0.13329837], atol=1e-4)
