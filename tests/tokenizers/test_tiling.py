import keras
import numpy as np
import pytest

from keras_mmai import VAE, VQVAE
from keras_mmai.layers import GroupedQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer
from keras_mmai.tokenizers import VQVAE2, Tiles

SIZES = dict(filters=(4, 6), num_residual_layers=2, residual_filters=4)


def seanet(**sizes):
    arguments = dict(filters=2, **(sizes or dict(strides=(2, 4))))
    return VQVAE(
        (64, 1),
        encoder=SEANetEncoder(output_dim=3, **arguments),
        decoder=SEANetDecoder(output_dim=1, **arguments),
        quantizer=VectorQuantizer(16, 3),
    )


EXAMPLES = {
    "image": (
        lambda: VQVAE((8, 8, 2), quantizer=GroupedQuantizer([VectorQuantizer(8, 2) for _ in range(2)]), **SIZES),
        (48, 56, 2),
        (32, 16),
    ),
    "vae": (lambda: VAE((8, 8, 1), latent_dim=2, **SIZES), (64, 40, 1), (16, 40)),
    "strides of each axis": (
        lambda: VAE((8, 8, 1), latent_dim=2, **{**SIZES, "strides": [(1, 2), (2, 4)]}),
        (30, 96, 1),
        (10, 32),
    ),
    "audio": (seanet, (400, 1), (104,)),
    "audio patches": (lambda: seanet(strides=(2,), patch_size=4), (400, 1), (104,)),
    "audio spectra": (lambda: seanet(strides=(2,), patch_size=4, fourier=True), (400, 1), (104,)),
}


@pytest.mark.parametrize(
    "make, shape, tile",
    [pytest.param(*row, id=name, marks=[pytest.mark.slow] * (name != "vae")) for name, row in EXAMPLES.items()],
)
def test_tiles_equal_the_whole(make, shape, tile):
    """A tile with less around it than the convolutions reach would differ at its edges."""
    model = make()
    whole = type(model).from_config({**model.get_config(), "input_shape": shape})
    whole.set_weights(model.get_weights())
    x = np.random.default_rng(0).uniform(-0.5, 0.5, size=(2, *shape)).astype("float32")
    for kind in model.tokens:
        tiles = Tiles(model, tile, kind)
        tokens = tiles.encode(x)
        expected = keras.ops.convert_to_numpy(whole.encode(x, tokens=kind))
        assert tokens.dtype == expected.dtype
        np.testing.assert_allclose(tokens, expected, atol=1e-5)
        decoded = tiles.decode(expected)
        np.testing.assert_allclose(decoded, keras.ops.convert_to_numpy(whole.decode(expected)), atol=1e-5)
        assert decoded.shape == x.shape


def test_signals_and_tiles_that_do_not_fit():
    model = EXAMPLES["vae"][0]()
    with pytest.raises(ValueError, match=r"`tile_shape` must be multiples of the strides \(4, 4\). Received: \(6, 8\)"):
        Tiles(model, (6, 8))
    tiles = Tiles(model, (8, 8))
    with pytest.raises(ValueError, match=r"The axes of a signal must be multiples .*Received: \(10, 8\)"):
        tiles.encode(np.zeros((1, 10, 8, 1), "float32"))
    with pytest.raises(ValueError, match=r"Signals have shape \('b', 'any', 'any', 1\). Received: \(1, 8, 8\)"):
        tiles.encode(np.zeros((1, 8, 8), "float32"))
    with pytest.raises(ValueError, match=r"Tokens have shape \('b', 'any', 'any', .*Received: \(1, 2, 2\)"):
        tiles.decode(np.zeros((1, 2, 2), "float32"))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        tiles.encode(np.full((1, 8, 8, 1), 2.0, "float32"))
    with pytest.raises(ValueError, match=r"takes a `VQVAE` or `VAE`. Received: VQVAE2"):
        Tiles(VQVAE2((8, 8, 1), 8, 1, 8), (8, 8))
    with pytest.raises(ValueError, match=r"in chunks, by `Stream`"):
        Tiles(VAE((8, 1), causal=True, **SIZES), (8,))
