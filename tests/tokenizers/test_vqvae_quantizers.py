"""A VQVAE with each kind of quantizer: trained, used and saved."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VQVAE, layers
from keras_mmai.tokenizers import CodesInUse, Perplexity

QUANTIZERS = {
    "gradient": lambda: layers.VectorQuantizer(16, 4, codebook="gradient", gradient="rotation", seed=0),
    "cosine": lambda: layers.VectorQuantizer(16, 4, distance="cosine", code_dim=2, initialization="kmeans", seed=0),
    "simvq": lambda: layers.SimVQ(16, 4, seed=0),
    "fsq": lambda: layers.FiniteScalarQuantizer((4, 4), 4),
    "lfq": lambda: layers.LookupFreeQuantizer(4),
    "residual": lambda: layers.ResidualQuantizer(
        [layers.VectorQuantizer(8, 4, seed=i) for i in range(2)], dropout=0.5, seed=0
    ),
    "grouped": lambda: layers.GroupedQuantizer([layers.VectorQuantizer(8, 2, seed=i) for i in range(2)]),
}


def waves(n):
    rng = np.random.RandomState(0)
    phase, frequency = rng.uniform(0, 6, (n, 1, 1, 1)), rng.uniform(0.5, 2, (n, 1, 1, 1))
    grid = np.add(*np.meshgrid(np.linspace(0, 3, 8), np.linspace(0, 3, 8)))[None, ..., None]
    return np.sin(frequency * grid + phase).astype("float32")


@pytest.fixture(params=QUANTIZERS)
def model(request):
    return VQVAE(
        (8, 8, 1), filters=(8,), num_residual_layers=1, residual_filters=8, quantizer=QUANTIZERS[request.param]()
    )


@pytest.mark.slow
def test_is_trained_and_used(model, tmp_path):
    x = waves(64)
    model.compile(keras.optimizers.Adam(1e-2))
    logs = model.fit(x, batch_size=16, epochs=4, verbose=0).history
    assert {"loss", "reconstruction", "perplexity", "codes_in_use", *model.quantizer.loss_names} <= set(logs)
    assert all(np.isfinite(logs[name]).all() for name in logs)
    assert logs["reconstruction"][-1] < logs["reconstruction"][0]
    places = max(1, int(np.prod(model.quantizer.code_shape)))
    assert 1 <= logs["perplexity"][-1] <= model.vocabulary
    assert 1 <= logs["codes_in_use"][-1] <= places * model.vocabulary

    codes = ops.convert_to_numpy(model.encode(x))
    assert codes.shape == (64, 4, 4, *model.quantizer.code_shape) == (64, *model.token_shape)
    assert codes.min() >= 0 and codes.max() < model.vocabulary
    decoded = ops.convert_to_numpy(model.decode(codes))
    np.testing.assert_allclose(decoded, ops.convert_to_numpy(model.reconstruct(x)), atol=1e-5)
    predicted = model.predict(x, batch_size=24, verbose=0)
    np.testing.assert_array_equal(predicted["codes"], codes)

    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.saving.load_model(tmp_path / "tokenizer.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.encode(x)), codes)
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.decode(codes)), decoded)
    before = ops.convert_to_numpy(loaded.quantizer.use).copy()
    loaded.fit(x, batch_size=16, verbose=0)  # goes on from where it was, and starts no codebook anew
    assert np.abs(ops.convert_to_numpy(loaded.quantizer.use) - before).max() < 0.3


def test_codes_out_of_range_are_an_error(model):
    quantizer = model.quantizer
    for place, size in zip(np.ndindex(*quantizer.code_shape), quantizer.vocabularies):
        for wrong in (quantizer.lowest_code - 1, size):
            codes = np.zeros((2, *model.token_shape), "int32")
            codes[(1, 2, 3, *place)] = wrong
            message = rf"codes in {quantizer.lowest_code}..{size - 1} there. Received: {wrong} at index \(1, 2, 3"
            for given in (codes, codes.tolist()):
                with pytest.raises(ValueError, match=message):
                    model.decode(given)


def test_a_code_that_is_left_out_makes_a_coarser_signal():
    levels = [layers.VectorQuantizer(16, 4, seed=i, initialization="uniform") for i in range(2)]
    quantizer = layers.ResidualQuantizer(levels)
    for level in levels:
        level.build((None, 4))
        level.embeddings.assign(np.random.default_rng(0).normal(size=(16, 4)))
    model = VQVAE((8, 8, 1), quantizer=quantizer, filters=(8,), num_residual_layers=1, residual_filters=8)
    codes = ops.convert_to_numpy(model.encode(waves(2))).copy()
    codes[..., 1] = -1
    coarse = ops.clip(model.decoded(quantizer.lookup(codes[..., :1])), -1, 1)
    np.testing.assert_allclose(*[ops.convert_to_numpy(x) for x in (model.decode(codes), coarse)], atol=1e-6)


def test_code_metrics_of_several_places():
    codes = np.array([[[0, 3], [1, 3]], [[2, -1], [3, -1]]], "int32")  # -1: a level that is not used
    perplexity, in_use = Perplexity(4, (2,)), CodesInUse(4, (2,))
    for metric in (perplexity, in_use):
        metric.update_state(codes)
    assert float(perplexity.result()) == pytest.approx(2.0, rel=1e-5)  # of 4 and 1
    assert float(in_use.result()) == 5
    perplexity.reset_state()
    perplexity.update_state(codes, np.array([[1, 1], [0, 0]]))
    assert float(perplexity.result()) == pytest.approx(2**0.5, rel=1e-5)
