import itertools

import numpy as np
import pytest
from keras import ops

from keras_mmai import layers

CASES = [((12, 3), (4,)), ((4, 6, 2), (2, 3)), ((4, 4, 6, 1), (2, 1, 3))]


def loop_patchify(x, patch):
    """Patch after patch, value after value, as the definition says."""
    space = x.shape[1:-1]
    tokens = []
    for corner in itertools.product(*[range(0, s, p) for s, p in zip(space, patch)]):
        values = []
        for offset in itertools.product(*[range(p) for p in patch]):
            values.append(x[(slice(None), *[c + o for c, o in zip(corner, offset)])])
        tokens.append(np.concatenate(values, axis=-1))
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize("shape, patch", CASES)
def test_patch_order_and_inverse(shape, patch):
    x = np.arange(2 * np.prod(shape), dtype="float32").reshape(2, *shape)
    tokens = layers.patchify(ops.convert_to_tensor(x), patch)
    np.testing.assert_array_equal(ops.convert_to_numpy(tokens), loop_patchify(x, patch))
    grid = tuple(s // p for s, p in zip(shape, patch))
    np.testing.assert_array_equal(ops.convert_to_numpy(layers.unpatchify(tokens, patch, grid)), x)


def test_embedding_is_a_strided_convolution():
    """The same numbers as the convolution that published checkpoints store."""
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    layer = layers.PatchEmbed((2, 3), 5)
    layer.build(x.shape)
    kernel = np.random.default_rng(1).normal(size=(2, 3, 3, 5)).astype("float32")
    layer.projection.kernel.assign(kernel.reshape(-1, 5))
    expected = ops.conv(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel), strides=(2, 3), padding="valid")
    np.testing.assert_allclose(layer(x), ops.reshape(expected, (2, 4, 5)), atol=1e-5)


@pytest.mark.parametrize("shape", [(None, 5, 4, 1), (None, None, 4, 1)])
def test_axes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"must be known and a multiple of its patch.*patch_size=\(2, 2\)"):
        layers.PatchEmbed((2, 2), 8).build(shape)


def test_another_rank():
    with pytest.raises(ValueError, match="takes \\(batch, 2 axes, channels\\)"):
        layers.PatchEmbed((2, 2), 8).build((None, 4, 1))
    with pytest.raises(ValueError, match="`patch_size` must be a positive int"):
        layers.PatchEmbed((2, 0), 8)
