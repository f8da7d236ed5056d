"""What one tokenizer has and the others do not: sizes, levels, noise and the terms of its loss."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import LATENT_NOISE, SIZES, X, make_vae

from keras_mmai import tokenizers
from keras_mmai.layers import VectorQuantizer
from keras_mmai.tokenizers import VQVAE, VQVAE2


def numpy(x):
    return ops.convert_to_numpy(x)


def test_the_sizes_of_the_published_vqvae():
    model = VQVAE((32, 32, 3), quantizer=VectorQuantizer(512, 64))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 662_723
    assert int(np.prod(model.quantizer.codes.shape)) == 32_768
    assert model.token_shape == (8, 8) and model.latent_shape == (8, 8, 64) and model.vocabulary == 512
    default = VQVAE((32, 32, 3)).quantizer
    assert (default.num_embeddings, default.embedding_dim, default.code_dim) == (512, 64, 8)


def test_the_sizes_of_vqvae2():
    model = VQVAE2((32, 32, 3))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 1_388_867
    assert [int(np.prod(q.codes.shape)) for q in (model.top, model.bottom)] == [32_768, 32_768]
    assert model.token_shape == (4 * 4 + 8 * 8,) and model.latent_shape == (80, 64) and model.bits == 720


def test_levels_of_vqvae2():
    levels = dict(top=VectorQuantizer(16, 4, seed=0), bottom=VectorQuantizer(8, 4, codebook="gradient", seed=1))
    model = VQVAE2((32, 32, 1), 8, 1, 8, **levels)
    assert model.token_shape == (16 + 64,)
    x = np.random.RandomState(0).uniform(-1, 1, (2, 32, 32, 1)).astype("float32")
    codes = numpy(model.encode(x)).copy()
    decoded = numpy(model.decode(codes))
    codes[:, 16] = (codes[:, 16] + 1) % 8  # the first of the bottom level: near its corner only
    near = np.abs(numpy(model.decode(codes)) - decoded).max((0, 3)) > 0
    assert near[:4, :4].any() and not near[24:, 24:].any()
    with pytest.raises(ValueError, match="must have one embedding_dim, and one code for each latent"):
        VQVAE2((16, 16, 1), top=VectorQuantizer(8, 4), bottom=VectorQuantizer(8, 2))


def test_a_vae_draws_from_its_posterior():
    model = make_vae()
    mean, log_variance = (numpy(part) for part in model.moments(ops.convert_to_tensor(X)))
    rows = np.repeat(X[:1], 2000, axis=0)
    z = numpy(model.standardize.inverse(model.encode(rows, seed=0, temperature=0.5)))
    deviation = 0.5 * np.exp(0.5 * log_variance[0])
    assert (np.abs(z.mean(0) - mean[0]) < 5 * deviation / np.sqrt(2000)).all()
    np.testing.assert_allclose(z.std(0), deviation, rtol=0.1)


def test_vae_noise_is_an_argument():
    model = make_vae()
    one, two = (numpy(model({"x": X, "noise": LATENT_NOISE}, training=True)["outputs"]) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    drawn = [numpy(model({"x": X}, training=True)["outputs"]) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_allclose(
        numpy(model(X)["outputs"]), numpy(model({"x": X, "noise": 0 * LATENT_NOISE})["outputs"]), atol=1e-6
    )


def test_the_kl_term_is_that_of_two_gaussians():
    model = make_vae()
    mean, log_variance = (numpy(m).astype("float64") for m in model.moments(ops.convert_to_tensor(X)))
    # E_q[log q - log p] by its definition; the logarithms are quadratic, and the quadrature is exact
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    z = mean + np.exp(log_variance / 2) * nodes.reshape(3, 1, 1, 1, 1)
    log_ratio = (z**2 - (z - mean) ** 2 / np.exp(log_variance) - log_variance) / 2
    expected = np.tensordot(weights / weights.sum(), log_ratio, 1)
    np.testing.assert_allclose(numpy(model(X)["kl"]), expected, atol=1e-5)


def test_data_variance_divides_the_reconstruction():
    losses = []
    for variance in (1.0, 0.25):
        keras.utils.set_random_seed(0)
        model = make_vae(data_variance=variance)
        losses.append(numpy(model.named_losses(X, model(X))["reconstruction"]))
    np.testing.assert_allclose(losses[1], 4 * losses[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_vqvae_learns_a_codebook_of_either_kind(codebook):
    model = VQVAE((8, 1), quantizer=VectorQuantizer(8, 4, codebook=codebook), **SIZES)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    before = numpy(model.quantizer.codes).copy()
    logs = model.fit(np.tile(X[:, 0], (4, 1, 1)), batch_size=8, epochs=2, verbose=0).history
    assert ("codebook" in logs) == (codebook == "gradient")
    assert 1 <= logs["codes_in_use"][-1] <= 8 and 1 <= logs["perplexity"][-1] <= logs["codes_in_use"][-1] + 1e-3
    assert (numpy(model.quantizer.codes) != before).any()


def test_standardize_keeps_running_statistics_and_its_inverse_goes_back():
    layer = tokenizers.Standardize()
    layer.build((None, 2))
    rng = np.random.RandomState(0)
    x = (rng.normal(size=(50, 64, 2)) * [2.0, 0.5] + [3.0, -1.0]).astype("float32")
    for batch in x:
        layer(batch, training=True)
    rows = x.reshape(-1, 2)
    np.testing.assert_allclose(numpy(layer.mean.value), rows.mean(0), rtol=1e-4)  # 50 batches weigh alike
    np.testing.assert_allclose(numpy(layer.variance.value), rows.var(0), rtol=1e-3)
    np.testing.assert_allclose(numpy(layer.inverse(layer(rows))), rows, atol=1e-4)
    before = [numpy(v.value).copy() for v in layer.variables]
    layer(np.full((3, 2), np.nan, "float32"), training=True)
    layer(rows, training=False)
    for value, variable in zip(before, layer.variables):
        np.testing.assert_array_equal(value, numpy(variable.value))


@pytest.mark.parametrize("metric, expected", [(tokenizers.Perplexity, 3.0), (tokenizers.CodesInUse, 3.0)])
def test_code_metrics(metric, expected):
    m = metric(8)
    m.update_state(np.array([[0, 1], [2, 0]], "int32"))
    m.update_state(np.array([1, 2], "int32"))
    assert float(m.result()) == pytest.approx(expected, rel=1e-5)
    m.update_state(np.array([0] * 1000, "int32"))
    assert float(m.result()) == (3.0 if metric is tokenizers.CodesInUse else pytest.approx(1.0, abs=0.1))
    m.reset_state()
    assert float(m.result()) == 0.0
    assert type(m).from_config(m.get_config()).num_embeddings == 8
