import numpy as np
import pytest
from keras import ops

from keras_mmai import layers

pytestmark = pytest.mark.usefixtures("numpy_initializers")


@pytest.mark.parametrize("space", [(8,), (8, 4), (4, 4, 8)])
def test_decoder_undoes_the_shape_of_the_encoder(space, forward):
    x = np.zeros((2, *space, 3), "float32")
    encoder = layers.ConvEncoder((2, 3), 5, 1, 2)
    decoder = layers.ConvDecoder((2, 3), 3, 1, 2)
    encoder.build(x.shape), decoder.build((2, *[s // 4 for s in space], 5))
    z = forward(encoder, {"x": x})
    assert z.shape == (2, *[s // 4 for s in space], 5) == encoder.compute_output_shape(x.shape)
    assert forward(decoder, {"x": z}).shape == x.shape == decoder.compute_output_shape(z.shape)


def test_a_stride_is_the_same_for_each_axis_and_for_all():
    def shapes(strides):
        encoder, decoder = (layer((2, 3), 1, 1, 2, strides) for layer in (layers.ConvEncoder, layers.ConvDecoder))
        encoder.build((None, 8, 8, 1)), decoder.build((None, 4, 4, 5))
        return [v.shape for v in encoder.weights + decoder.weights]

    assert shapes((1, 2)) == shapes([(1, 1), (2, 2)])
    assert (3, 3, 1, 2) in shapes((1, 2))  # as large as where nothing is strided


def test_shapes_that_are_odd_or_unknown(forward):
    encoder, decoder = layers.ConvEncoder((2, 3), 5, 1, 2), layers.ConvDecoder((2, 3), 1, 1, 2)
    encoder.build((None, 9, 6, 1))
    z = forward(encoder, {"x": np.zeros((1, 9, 6, 1), "float32")})
    assert z.shape == encoder.compute_output_shape((1, 9, 6, 1)) == (1, 3, 2, 5)
    assert encoder.compute_output_shape((None, None, 8, 1)) == (None, None, 2, 5)
    assert decoder.compute_output_shape((None, None, 2, 5)) == (None, None, 8, 1)


def test_residual_stack_against_numpy(forward):
    """Kernels of 3 whose sides are zero are kernels of 1: a stack of matrices."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    layer = layers.ResidualStack(2, 3)
    layer.build(x.shape)
    expected = x
    for wide, narrow in layer.blocks:
        a, b = rng.normal(size=(4, 3)), rng.normal(size=(3, 4))
        wide.kernel.assign(np.stack([0 * a, a, 0 * a]))
        narrow.kernel.assign(b[None])
        expected = expected + np.maximum(np.maximum(expected, 0) @ a, 0) @ b
    np.testing.assert_allclose(forward(layer, {"x": x}), np.maximum(expected, 0), atol=1e-4)


def test_a_signal_of_another_rank():
    with pytest.raises(ValueError, match=r"1, 2 or 3 axes besides batch and channels. Received: 4"):
        layers.ConvEncoder((2,), 3).build((None, 2, 2, 2, 2, 1))


def test_depth_is_not_silent(forward):
    """Each width of `filters` is one halving."""
    x = ops.zeros((1, 16, 1))
    for filters in ((4,), (4, 4), (4, 4, 4)):
        encoder = layers.ConvEncoder(filters, 2, 1, 2)
        assert encoder(x).shape[1] == 16 // 2 ** len(filters)
