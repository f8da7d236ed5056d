import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import layers

pytestmark = pytest.mark.usefixtures("numpy_initializers")
X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
CONDITION = np.random.default_rng(1).normal(size=(2, 8)).astype("float32")


def fill(layer):
    numbers = np.random.default_rng(2)
    for variable in layer.trainable_variables:
        variable.assign(numbers.normal(size=variable.shape) / 2)
    return layer


@pytest.fixture(params=["attention", "block"])
def layer(request):
    """(layer, further inputs): an attention layer and a block, with all weights filled."""
    if request.param == "attention":
        layer, more = layers.SelfAttention(2, qk_norm=True), {}
    else:
        layer, more = layers.DiTBlock(2, mlp_ratio=2.0), {"condition": CONDITION}
    layer.build((None, None, 8))
    return fill(layer), more


def test_a_mask_equals_cropping(layer, forward):
    layer, more = layer
    mask = np.tile(np.arange(6) < 4, (2, 1))
    whole = X.copy()
    whole[:, 4:] = 1e3
    cropped = forward(layer, {"x": X[:, :4], **more})
    masked = forward(layer, {"x": whole, "mask": mask, **more})
    np.testing.assert_allclose(ops.convert_to_numpy(masked)[:, :4], cropped, atol=1e-5)
    without = forward(layer, {"x": whole, **more})
    assert np.abs(ops.convert_to_numpy(without)[:, :4] - ops.convert_to_numpy(cropped)).max() > 0.1


def test_an_example_that_is_all_masked_is_finite(layer, forward, gradients):
    layer, more = layer
    mask = np.array([[True] * 6, [False] * 6])
    assert np.isfinite(ops.convert_to_numpy(forward(layer, {"x": X, "mask": mask, **more}))).all()

    def loss(x):
        given = {name: ops.convert_to_tensor(value) for name, value in {"mask": mask, **more}.items()}
        return ops.sum(layer(x, **given)[0])

    _, numbers = gradients(loss, [X], layer.trainable_variables)
    assert all(np.isfinite(g).all() for g in numbers)


def test_the_mask_goes_on_to_the_next_layer():
    mask = ops.convert_to_tensor(np.tile(np.arange(6) < 4, (2, 1)))
    block = layers.DiTBlock(2)
    output = block(ops.convert_to_tensor(X), ops.convert_to_tensor(CONDITION), mask=mask)
    np.testing.assert_array_equal(ops.convert_to_numpy(output._keras_mask), ops.convert_to_numpy(mask))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_against_numpy(qk_norm, forward):
    layer = layers.SelfAttention(2, qk_norm=qk_norm)
    layer.build((None, 6, 8))
    fill(layer)
    kernel, bias, out, out_bias, *scales = (v.astype("float64") for v in layer.get_weights())

    def normalise(x, i):  # over the four channels of a head
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scales[i] if qk_norm else x

    q, k, v = np.split(X @ kernel + bias, 3, axis=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = np.exp(normalise(q[..., part], 0) @ np.swapaxes(normalise(k[..., part], 1), 1, 2) / 2)  # sqrt(4)
        heads.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
    expected = np.concatenate(heads, axis=-1) @ out + out_bias
    np.testing.assert_allclose(forward(layer, {"x": X}), expected, atol=1e-5)


def test_rotary_attention_follows_a_shift(forward):
    """With rotary positions a sequence that is shifted inside padding gives the shifted output."""
    layer = layers.SelfAttention(2, qk_norm=True)
    layer.build((None, 6, 8))
    fill(layer)
    moved = np.roll(X, 2, axis=1)
    rotary = layers.rotary_tables((6,), 4)
    first = np.tile(np.arange(6) < 4, (2, 1))
    here = layer(X, mask=first, rotary=rotary)
    there = layer(moved, mask=np.roll(first, 2, axis=1), rotary=rotary)
    np.testing.assert_allclose(ops.convert_to_numpy(there)[:, 2:], ops.convert_to_numpy(here)[:, :4], atol=1e-5)
    flat = layer(X, mask=first)
    assert np.abs(ops.convert_to_numpy(flat) - ops.convert_to_numpy(here)).max() > 1e-2


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match=r"must be a multiple of `num_heads`. Received: width 8, num_heads=3"):
        layers.SelfAttention(3).build((None, 6, 8))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends know every length")
def test_sequences_of_unknown_length():
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, layers.SelfAttention(2)(inputs))
    for n in (3, 5):
        assert model.predict(np.zeros((2, n, 8), "float32"), verbose=0).shape == (2, n, 8)


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
def test_a_block_starts_as_the_identity(feed_forward, forward):
    block = layers.DiTBlock(2, feed_forward=feed_forward, qk_norm=True)
    block.build((None, 6, 8))
    np.testing.assert_array_equal(forward(block, {"x": X, "condition": CONDITION}), X)


def test_a_condition_for_each_token(forward):
    block = layers.DiTBlock(2, mlp_ratio=2.0)
    block.build((None, 6, 8))
    fill(block)
    each = np.repeat(CONDITION[:, None], 6, axis=1)
    same = forward(block, {"x": X, "condition": each})
    np.testing.assert_allclose(same, forward(block, {"x": X, "condition": CONDITION}), atol=2e-5)


def test_unknown_feed_forward():
    with pytest.raises(ValueError, match=r"`feed_forward` must be one of \['gelu', 'swiglu'\]. Received: 'relu'"):
        layers.DiTBlock(2, feed_forward="relu")


def test_feed_forwards_against_numpy(forward):
    x = X.astype("float64")
    gelu = fill_built(layers.FeedForward(5))
    k1, b1, k2, b2 = gelu.get_weights()
    h = x @ k1 + b1
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(forward(gelu, {"x": X}), h @ k2 + b2, atol=1e-5)
    swiglu = fill_built(layers.SwiGLU(5))
    k1, b1, k2, b2 = swiglu.get_weights()
    gate, value = np.split(x @ k1 + b1, 2, axis=-1)
    np.testing.assert_allclose(forward(swiglu, {"x": X}), gate / (1 + np.exp(-gate)) * value @ k2 + b2, atol=1e-5)


def fill_built(layer):
    layer.build(X.shape)
    return fill(layer)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype("float32")


def test_streams_of_equal_weights_are_one_block():
    """With the same weights in each stream, MM-DiT's block is `DiTBlock` on all tokens."""
    x, condition, mask = normal(2, 5, 8), normal(2, 8), np.arange(5) < np.array([[3], [5]])
    segments = np.eye(2, dtype="float32")[[0, 0, 1, 1, 1]]
    rotary = layers.rotary_tables((5,), 4)
    joint, single = layers.JointDiTBlock({"a": 2, "b": 3}, 2, qk_norm=True), layers.DiTBlock(2, qk_norm=True)
    for layer in (joint, single):
        layer.build((None, 5, 8))
    for i, weight in enumerate(single.weights):
        weight.assign(0.3 * normal(*weight.shape, seed=i))
    for block in joint.blocks.values():
        for to, by in zip(block.weights, single.weights):
            to.assign(by)
    conditions = np.stack([condition, -condition], 1)
    options = dict(mask=mask, rotary=rotary, segments=segments)
    whole = single(x, conditions, **options)
    np.testing.assert_allclose(
        ops.convert_to_numpy(joint(x, conditions, **options)), ops.convert_to_numpy(whole), atol=1e-5
    )
    alone = joint(x[:, 2:], conditions[:, 1], mask=mask[:, 2:], names=("b",))
    expected = single(x[:, 2:], conditions[:, 1], mask=mask[:, 2:])
    np.testing.assert_allclose(ops.convert_to_numpy(alone), ops.convert_to_numpy(expected), atol=1e-5)
    joint.blocks["b"].mlp.weights[0].assign(0.5 * joint.blocks["b"].mlp.weights[0])
    other = ops.convert_to_numpy(joint(x, conditions, **options))
    changed = np.abs(other - ops.convert_to_numpy(whole)).max((0, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, True, True]


def test_a_causal_mask_keeps_the_past_from_the_future():
    layer, causal = layers.SelfAttention(2), np.tri(6)[None] > 0
    layer.build((None, 6, 8))
    later = X.copy()
    later[:, 4:] += 1.0
    one, other = (ops.convert_to_numpy(layer(x, mask=causal)) for x in (X, later))
    np.testing.assert_allclose(one[:, :4], other[:, :4], atol=1e-6)
    assert np.abs(one[:, 4:] - other[:, 4:]).max() > 1e-3
    assert getattr(layer(ops.convert_to_tensor(X), mask=causal), "_keras_mask", None) is None  # is no mask of tokens
    rows = np.broadcast_to((np.arange(6) < 4)[None, None], (2, 6, 6))
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(X, mask=rows)), ops.convert_to_numpy(layer(X, mask=rows[:, 0])), atol=1e-6
    )
