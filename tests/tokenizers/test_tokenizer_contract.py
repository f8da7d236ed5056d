"""The contract of every public tokenizer. A new one needs an entry in EXAMPLES, and nothing else."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops
from small_models import check_served, compile_eagerly, heavy

from keras_mmai import tokenizers
from keras_mmai.layers import VectorQuantizer
from keras_mmai.tokenizers import VAE, VQVAE, VQVAE2, Tokenizer

SIZES = dict(filters=(8,), num_residual_layers=1, residual_filters=8)


def quantizer():
    return VectorQuantizer(16, 4, seed=0)


# class -> a small example for signals of the given shape
EXAMPLES = {
    "VQVAE": lambda shape=(8, 8, 1), **kwargs: VQVAE(shape, quantizer=quantizer(), **SIZES, **kwargs),
    "VAE": lambda shape=(8, 8, 1), **kwargs: VAE(shape, latent_dim=4, seed=0, **SIZES, **kwargs),
    "VQVAE2": lambda shape=(8, 8, 1), **kwargs: VQVAE2(
        shape, 8, 1, 8, top=quantizer(), bottom=VectorQuantizer(8, 4, codebook="gradient", seed=1), **kwargs
    ),
}
PUBLIC = [
    name
    for name, cls in vars(tokenizers).items()
    if inspect.isclass(cls) and issubclass(cls, Tokenizer) and cls is not Tokenizer
]
SHAPES = [(8, 1), (8, 8, 1), (8, 8, 8, 2)]


def waves(n, shape):
    """Smooth signals of different phase and frequency, in [-1, 1]."""
    rng = np.random.RandomState(0)
    grid = sum(np.meshgrid(*[np.linspace(0, 3, s) for s in shape[:-1]], indexing="ij"))
    frequency, phase = rng.uniform(0.5, 2, (n, *[1] * len(shape))), rng.uniform(0, 6, (n, *[1] * len(shape)))
    return np.sin(frequency * grid[..., None] + phase + np.arange(shape[-1])).astype("float32")


X = waves(5, (8, 8, 1))


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(params=PUBLIC)
def make(request):
    if request.param not in EXAMPLES:
        pytest.fail(f"{request.param} is a public tokenizer: add an example of it to EXAMPLES in {__file__}.")
    return EXAMPLES[request.param]


@pytest.fixture(scope="module")
def fitted():
    """name -> the example after a short training, made once."""
    models = {}

    def get(name):
        if name not in models:
            keras.utils.set_random_seed(0)
            models[name] = EXAMPLES[name]()
            # the statistics are means over the whole training: in most of it the encoder must stand still
            epochs = {"VQVAE2": 48}.get(name, 12)  # what two levels have in common takes longer to find
            rate = keras.optimizers.schedules.PolynomialDecay(1e-2, 8 * epochs // 5, end_learning_rate=0.0)
            models[name].compile(keras.optimizers.Adam(rate))
            models[name].fit(waves(128, (8, 8, 1)), batch_size=16, epochs=epochs, verbose=0)
        return models[name]

    return get


def check_tokens(model, kind, tokens, rows):
    if kind == "codes":
        assert keras.backend.standardize_dtype(tokens.dtype) == "int32"
        assert tuple(tokens.shape) == (rows, *model.token_shape)
        assert numpy(tokens).min() >= 0 and numpy(tokens).max() < model.vocabulary
    else:
        assert keras.backend.standardize_dtype(tokens.dtype) == "float32"
        assert tuple(tokens.shape) == (rows, *model.latent_shape)


def check_signal(signal, shape):
    assert keras.backend.standardize_dtype(signal.dtype) == "float32"
    assert tuple(signal.shape) == shape
    assert np.abs(numpy(signal)).max() <= 1.0


@pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
def test_signals_of_every_rank_become_tokens_and_come_back(make, shape):
    model, x = make(shape), waves(3, shape)
    assert model.input_shape == shape
    assert (model.vocabulary is not None) == ("codes" in model.tokens)
    for kind in model.tokens:
        tokens = model.encode(x, tokens=kind)
        check_tokens(model, kind, tokens, 3)
        check_signal(model.decode(tokens), x.shape)
    first = model.encode(x)
    check_tokens(model, model.tokens[0], first, 3)
    np.testing.assert_array_equal(numpy(first), numpy(model.encode(x, tokens=model.tokens[0])))
    np.testing.assert_array_equal(numpy(model.decode(first)), numpy(model.reconstruct(x)))


def test_kinds_of_tokens_agree_with_each_other_and_with_call(make):
    model = make()
    outputs = {name: numpy(value) for name, value in model(X).items()}
    reconstruction = numpy(model.reconstruct(X))
    np.testing.assert_allclose(np.clip(outputs["outputs"], -1, 1), reconstruction, atol=1e-5)
    for kind in model.tokens:
        np.testing.assert_allclose(outputs[kind], numpy(model.encode(X, tokens=kind)), atol=1e-5)
        np.testing.assert_allclose(numpy(model.decode(model.encode(X, tokens=kind))), reconstruction, atol=1e-5)


def test_tokens_are_drawn_with_a_seed(make):
    model = make()
    drawn = model.tokens[0]
    tokens = model.encode(X, seed=3, temperature=2.0)
    check_tokens(model, drawn, tokens, len(X))
    again = model.encode(X[1:3], seed=np.array([[3, 1], [3, 2]], "int32"), temperature=2.0)
    np.testing.assert_allclose(numpy(again), numpy(tokens)[1:3], atol=1e-5)  # a row has a seed of its own
    assert (numpy(tokens) != numpy(model.encode(X))).any()
    assert (numpy(tokens) != numpy(model.encode(X, seed=4, temperature=2.0))).any()
    if model.tokens != (drawn,):
        with pytest.raises(ValueError, match="leave `seed` out"):
            model.encode(X, tokens="latents", seed=3)
    np.testing.assert_array_equal(
        numpy(model.encode(X, seed=np.int64(3), temperature=2.0)), numpy(tokens)
    )  # a numpy integer is one
    for seed in (2**40, np.zeros((5,), "int32"), np.zeros((4, 2), "int32")):
        with pytest.raises(ValueError, match="seed"):
            model.encode(X, seed=seed)
    with pytest.raises(ValueError, match="temperature"):
        model.encode(X, seed=0, temperature=0.0)


def test_decoded_signals_are_clipped(make):
    model = make()
    for variable in model.decoder.trainable_variables:
        variable.assign(ops.ones_like(variable.value) * 3.0)
    assert numpy(model.reconstruct(X)).max() == 1.0


def test_predict_takes_a_last_batch_of_another_size(make):
    model = make()
    whole = model.predict(X, batch_size=5, verbose=0)
    ragged = model.predict(X, batch_size=2, verbose=0)
    for kind in ("outputs", *model.tokens):
        assert len(ragged[kind]) == 5
        np.testing.assert_allclose(ragged[kind], whole[kind], atol=1e-5)


def test_latents_are_standardised_and_the_signal_learned(make, fitted, request):
    model = fitted(request.node.callspec.params["make"])
    x = waves(128, (8, 8, 1))
    latents = numpy(model.encode(x, tokens="latents")).reshape(-1, model.latent_shape[-1])
    assert np.abs(latents.mean(0)).max() < 0.2
    np.testing.assert_allclose(latents.std(0), 1.0, atol=0.2)
    error = np.mean((numpy(model.reconstruct(x)) - x) ** 2)
    assert error < 0.7 * np.var(x)


def test_config_round_trip(make):
    model = make(ema_decays=(0.9,), name="mine")
    clone = type(model).from_config(model.get_config())
    assert clone.get_config() == model.get_config() and clone.name == "mine"
    assert [tuple(v.shape) for v in clone.variables] == [tuple(v.shape) for v in model.variables]


@pytest.mark.filterwarnings("error", "ignore:__array__ implementation")
def test_a_loaded_tokenizer_is_the_same(make, fitted, request, tmp_path):
    model = fitted(request.node.callspec.params["make"])
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.saving.load_model(tmp_path / "tokenizer.keras")
    for kind in model.tokens:
        np.testing.assert_array_equal(*[numpy(m.encode(X, tokens=kind)) for m in (model, loaded)])
    np.testing.assert_array_equal(numpy(model.reconstruct(X)), numpy(loaded.reconstruct(X)))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies(make, policy):
    reference = make()
    low = make(dtype=policy)
    low.set_weights(reference.get_weights())
    for kind in low.tokens:
        tokens = low.encode(X, tokens=kind)
        check_tokens(low, kind, tokens, 5)
        check_signal(low.decode(tokens), X.shape)
    np.testing.assert_allclose(
        numpy(low.encode(X, tokens="latents")), numpy(reference.encode(X, tokens="latents")), atol=0.03
    )
    assert {keras.backend.standardize_dtype(v.dtype) for v in low.standardize.variables} == {"float32"}
    assert low.encoder.compute_dtype == policy.removeprefix("mixed_")


def test_nan_in_one_signal_leaves_the_others_alone(make):
    model = make()
    bad = X.copy()
    bad[1] = np.nan
    for kind in model.tokens:
        good, tokens = (numpy(model.encode(ops.convert_to_tensor(x), tokens=kind)) for x in (X, bad))
        np.testing.assert_allclose(np.delete(tokens, 1, 0), np.delete(good, 1, 0), atol=1e-5)
        if kind == "codes":
            assert tokens.min() >= 0 and tokens.max() < model.vocabulary


def test_nan_in_an_array_is_an_error_that_says_where(make):
    bad = X.copy()
    bad[2:4] = np.nan
    model = make()
    for use in (model.encode, model.reconstruct):
        with pytest.raises(ValueError, match=r"must be finite. Received: NaN in 2 of 5 examples, the first at index 2"):
            use(bad)


@pytest.mark.slow
def test_is_served(make, tmp_path):
    check_served(make(), X, tmp_path)


@heavy
def test_fit_on_a_stream_of_tf_data(make):
    import tensorflow as tf

    model = make()
    compile_eagerly(model, keras.optimizers.Adam(1e-2))
    stream = tf.data.Dataset.from_tensor_slices(waves(16, (8, 8, 1))).batch(8)
    logs = model.fit(stream, epochs=3, validation_data=stream, shuffle=False, verbose=0).history
    named = {name for name in logs if not name.startswith("val_")}
    assert set(model.trackers) <= named and all(np.isfinite(logs[name]).all() for name in logs)
    assert logs["reconstruction"][-1] < logs["reconstruction"][0] and logs["val_reconstruction"]
    if model.vocabulary:
        used = [name for name in named if name.startswith("codes_in_use")]
        assert used and all(logs[name][-1] >= 1 for name in used)
        assert {name.replace("codes_in_use", "perplexity") for name in used} <= named


def test_errors_teach(make):
    model = make()
    shape = r"takes signals of shape \('b', 8, 8, 1\), channels last, float in \[-1, 1\]. Received: "
    for wrong in (X[..., 0], np.repeat(X, 3, -1), X[:, :4]):
        for method in (model.encode, model.reconstruct, model):
            with pytest.raises(ValueError, match=shape):
                method(wrong)
    with pytest.raises(ValueError, match=r"float in \[-1, 1\]. Received: uint8. For 8-bit images: x / 127.5 - 1"):
        model.encode(np.zeros((2, 8, 8, 1), "uint8"))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]. Received: values from 0 to 255"):
        model.encode(np.full((2, 8, 8, 1), 255.0, "float32"))
    for values in (255.0, np.nan):
        with pytest.raises(ValueError, match=r"must (lie in|be finite)"):
            model.predict(np.full((2, 8, 8, 1), values, "float32"), verbose=0)
    with pytest.raises(ValueError, match=r"one shape: pad or crop them. Received: \(4, 8, 1\), \(8, 8, 1\)"):
        model.encode([X[0], X[1, :4]])
    with pytest.raises(ValueError, match=r"one shape: pad or crop them. Received: an array of objects"):
        model.encode(np.array([X[0], None], dtype=object))
    with pytest.raises(ValueError, match=r"Received: \(2, 8, 8, 1\) int32"):
        model(ops.zeros((2, 8, 8, 1), "int32"))
    with pytest.raises(ValueError, match=r"gives tokens of the kinds .*'latents'.*Received: 'words'"):
        model.encode(X, tokens="words")
    with pytest.raises(
        ValueError, match=re.escape(f"float latents of shape {('b', *model.latent_shape)}. Received: (2, 3)")
    ):
        model.decode(np.zeros((2, 3), "float32"))
    codes = np.zeros((2, 3, 4), "int32")
    if model.vocabulary:
        with pytest.raises(
            ValueError, match=re.escape(f"int codes of shape {('b', *model.token_shape)}. Received: (2, 3, 4)")
        ):
            model.decode(codes)
    else:
        with pytest.raises(ValueError, match="has no codes: decode takes float latents"):
            model.decode(codes)
    with pytest.raises(ValueError, match=r"multiple of [28],.*Received: \(8, 7, 1\). Pad or crop"):
        make((8, 7, 1))
    with pytest.raises(ValueError, match="all known"):
        make((None, 8, 1))
