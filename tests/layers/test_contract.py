"""The list that every public layer has to pass. A new layer can't escape it: the table must hold an example of it."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import layers
from keras_mmai.layers.quantizers import Quantizer

pytestmark = pytest.mark.usefixtures("numpy_initializers")
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype("float32")


# name -> (constructor arguments, inputs of `call` by name)
MASK = np.arange(5) < np.array([[3], [5]])
LATENTS = normal(2, 5, 4)
EXAMPLES = {
    "ConvDecoder": (
        dict(filters=(4, 6), output_dim=3, num_residual_layers=1, residual_filters=5),
        {"x": normal(2, 3, 4)},
    ),
    "ConvEncoder": (
        dict(filters=(4, 6), output_dim=3, num_residual_layers=1, residual_filters=5),
        {"x": normal(2, 9, 2)},
    ),
    "CausalConvolution": (
        dict(filters=3, kernel_size=(4, 3), strides=(2, 1), transposed=True, activation="relu"),
        {"x": normal(2, 3, 4, 2)},
    ),
    "DiTBlock": (
        dict(num_heads=2, mlp_ratio=3.0, qk_norm=True, feed_forward="swiglu"),
        {"x": normal(2, 5, 8), "condition": normal(2, 8), "mask": MASK},
    ),
    "DiTOutput": (dict(output_dim=6), {"x": normal(2, 5, 8), "condition": normal(2, 8)}),
    "DilatedResidual": (dict(dilation=3, causal=True), {"x": normal(2, 8, 3)}),
    "FeedForward": (dict(hidden_dim=12), {"x": normal(2, 5, 8)}),
    "FiniteScalarQuantizer": (dict(levels=(5, 4), embedding_dim=4), {"z": LATENTS, "mask": MASK}),
    "FourierAnalysis": (dict(hop=2, causal=True), {"x": normal(2, 8, 1)}),
    "FourierSynthesis": (dict(hop=2), {"spectra": normal(2, 4, 10)}),
    "Framewise": (
        dict(coder=layers.ConvEncoder((4, 6), 3, num_residual_layers=1, residual_filters=5)),
        {"x": normal(2, 3, 9, 8, 2)},
    ),
    "GroupedQuantizer": (
        dict(quantizers=[layers.LookupFreeQuantizer(2), layers.SimVQ(4, 2, seed=1)]),
        {"z": LATENTS, "mask": MASK},
    ),
    "JointDiTBlock": (
        dict(lengths={"a": 2, "b": 3}, num_heads=2, mlp_ratio=3.0, qk_norm=True),
        {"x": normal(2, 5, 8), "condition": normal(2, 8), "mask": MASK},
    ),
    "LabelEmbedding": (dict(num_classes=4, hidden_dim=6, dropout=0.2, seed=1), {"labels": np.array([0, 4], "int32")}),
    "LookupFreeQuantizer": (dict(num_bits=3, embedding_dim=4, spherical=True), {"z": LATENTS, "mask": MASK}),
    "Modulation": (dict(num_chunks=3), {"condition": normal(2, 8)}),
    "PatchEmbed": (dict(patch_size=(2, 3), hidden_dim=8, use_bias=False), {"x": normal(2, 4, 6, 2)}),
    "ResidualQuantizer": (
        dict(quantizers=[layers.VectorQuantizer(6, 3, seed=i) for i in range(2)], dropout=0.5, embedding_dim=4),
        {"z": LATENTS, "mask": MASK},
    ),
    "ResidualStack": (dict(num_layers=2, hidden_filters=3), {"x": normal(2, 7, 4)}),
    "SEANetDecoder": (dict(filters=2, output_dim=1, strides=(3,), causal=True), {"x": normal(2, 2, 4)}),
    "SEANetEncoder": (dict(filters=2, output_dim=3, strides=(3,)), {"x": normal(2, 6, 1)}),
    "SelfAttention": (dict(num_heads=2, qk_norm=True, use_bias=False), {"x": normal(2, 5, 8), "mask": MASK}),
    "SimVQ": (dict(num_embeddings=6, embedding_dim=4, seed=1), {"z": LATENTS, "mask": MASK}),
    "Snake": (dict(), {"x": normal(2, 5, 4)}),
    "SwiGLU": (dict(hidden_dim=12), {"x": normal(2, 5, 8)}),
    "TokenEmbedding": (
        dict(vocabulary=4, hidden_dim=6, code_axes=1, stddev=1.0),
        {"ids": np.array([[[0, 4], [3, 1], [2, 2]]] * 2, "int32")},
    ),
    "TimestepEmbedding": (
        dict(hidden_dim=8, frequency_dim=16, time_scale=100.0),
        {"t": np.array([0.1, 0.7], "float32")},
    ),
    "VectorQuantizer": (
        dict(num_embeddings=6, embedding_dim=4, distance="cosine", initialization="uniform", decay=0.9, seed=1),
        {"z": LATENTS, "mask": MASK},
    ),
}
PUBLIC = [name for name in layers.__all__ if inspect.isclass(getattr(layers, name))]
POLICIES = {"float32": 1e-6, "mixed_bfloat16": 0.05, "mixed_float16": 0.01, "bfloat16": 0.1}  # error over the output


def example(name, **kwargs):
    """A built layer whose trainable weights are all filled, also those that start at zero, and its inputs."""
    if name not in EXAMPLES:
        pytest.fail(f"keras_mmai.layers.{name} is public: add its arguments and inputs to EXAMPLES in {__file__}.")
    arguments, inputs = EXAMPLES[name]
    if "coder" in arguments:  # a layer that has a policy of its own
        coder = arguments["coder"]
        arguments = {"coder": type(coder).from_config({**coder.get_config(), **kwargs})}
    layer = getattr(layers, name)(**arguments, **kwargs)
    layer(**symbols(inputs))  # builds it
    numbers = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign(numbers.normal(size=variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1]))))
    return layer, inputs


def symbols(inputs):
    return {key: keras.Input(v.shape[1:], dtype=v.dtype.name, name=key) for key, v in inputs.items()}


def arrays(outputs):
    return [np.asarray(ops.convert_to_numpy(o)).astype("float32") for o in keras.tree.flatten(outputs)]


def assert_equal(ours, theirs, atol):
    ours, theirs = arrays(ours), arrays(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1.0, np.abs(b).max()))


def test_every_public_layer_has_an_example():
    assert sorted(PUBLIC) == sorted(EXAMPLES), "add the new layer to EXAMPLES (or remove the old one)"
    assert all(issubclass(getattr(layers, name), keras.layers.Layer) for name in PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_output_is_what_the_spec_says_and_repeats(name, forward):
    layer, inputs = example(name)
    spec = layer.compute_output_spec(**symbols(inputs))
    state = layer.get_weights()
    outputs = forward(layer, inputs)
    keras.tree.assert_same_structure(outputs, spec)
    for output, symbol in zip(keras.tree.flatten(outputs), keras.tree.flatten(spec)):
        assert keras.backend.standardize_dtype(output.dtype) == symbol.dtype
        assert len(symbol.shape) == len(output.shape)
        assert tuple(symbol.shape[1:]) == tuple(output.shape[1:])
        assert all(s in (None, n) for s, n in zip(symbol.shape[:1], output.shape[:1]))
    assert_equal(forward(layer, inputs), outputs, 0)
    for before, after in zip(state, layer.get_weights()):
        np.testing.assert_array_equal(before, after, err_msg="inference changed the layer's state")


@pytest.mark.parametrize("name", PUBLIC)
def test_config_round_trip(name):
    layer, _ = example(name)
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    for key, value in EXAMPLES[name][0].items():
        assert key in config
        if key not in ("quantizers", "coder"):  # layers, which are equal by their config
            assert getattr(copy, key) == value


@pytest.mark.parametrize("name", PUBLIC)
def test_saves_and_loads_inside_a_model(name, tmp_path):
    layer, inputs = example(name)
    given = symbols(inputs)
    model = keras.Model(given, layer(**given))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if isinstance(layer, Quantizer):  # its losses have no rows to be joined by `predict`
        given = {key: ops.convert_to_tensor(value) for key, value in inputs.items()}
        assert_equal(loaded(given), model(given), 0)
    else:
        assert_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0), 0)


@pytest.mark.parametrize(
    "policy", [pytest.param(p, marks=[pytest.mark.slow] if p == "bfloat16" else []) for p in POLICIES]
)
@pytest.mark.parametrize("name", PUBLIC)
def test_policy(name, policy, forward, expected):
    layer, inputs = example(name, dtype=policy)
    outputs = forward(layer, inputs)
    assert layer.compute_dtype == policy.removeprefix("mixed_")
    if not isinstance(layer, Quantizer):  # float32 under every policy; its output is like its input
        assert {v.dtype for v in layer.trainable_variables} <= {layer.variable_dtype}
        dtypes = {keras.backend.standardize_dtype(o.dtype) for o in keras.tree.flatten(outputs)}
        assert dtypes == {layer.compute_dtype}
    assert all(np.isfinite(a).all() for a in arrays(outputs))
    assert_equal(outputs, expected(name), POLICIES[policy])


@pytest.fixture(scope="module")
def expected():
    """name -> the output in float32 without compilation."""
    outputs = {}

    def output(name):
        if name not in outputs:
            layer, inputs = example(name, dtype="float32")
            outputs[name] = arrays(layer(**{key: ops.convert_to_tensor(value) for key, value in inputs.items()}))
        return outputs[name]

    return output


@pytest.mark.parametrize("name", PUBLIC)
def test_compiled_equals_eager(name, compiled, expected):
    layer, inputs = example(name)
    assert_equal(compiled(layer)(inputs), expected(name), 1e-5)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_row_of_a_batch_is_as_it_is_alone(name, forward, expected):
    layer, inputs = example(name)
    alone = forward(layer, {key: value[1:] for key, value in inputs.items()})
    for a, b in zip(expected(name), arrays(alone)):
        if a.ndim:  # not the losses, which are means over the batch
            np.testing.assert_allclose(a[1:], b, atol=1e-5)


def test_a_layer_without_an_example_is_named(monkeypatch):
    monkeypatch.delitem(EXAMPLES, "SwiGLU")
    with pytest.raises(pytest.fail.Exception, match=re.escape("keras_mmai.layers.SwiGLU is public: add its arguments")):
        example("SwiGLU")
