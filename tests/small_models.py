"""A small model of each kind and a batch for it, and how tests look at what training changed."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import batch_of
from multimodal_models import make as make_multimodal

from keras_mmai import VAE, VQVAE, DiffusionTransformer, DiT
from keras_mmai.layers import VectorQuantizer

BACKEND = keras.backend.backend()
ROWS = 8
DECAYS = (0.3, 0.999)


def signals(n=ROWS):
    """Waves of different direction and phase, (n, 8, 8, 1) in [-1, 1]."""
    i, h, w = np.meshgrid(np.arange(n), np.arange(8), np.arange(8), indexing="ij")
    return np.sin(0.4 * (i % 3) * h + 0.4 * (i % 2) * w + i).astype("float32")[..., None]


X = signals()
T = np.linspace(0.1, 0.9, ROWS, dtype="float32")
NOISE = np.random.RandomState(0).normal(size=X.shape).astype("float32")
LATENT_NOISE = np.random.RandomState(1).normal(size=(ROWS, 4, 4, 2)).astype("float32")
SIZES = dict(filters=(8,), num_residual_layers=1, residual_filters=8)


def make_vqvae(**kwargs):
    # Revival draws at random, which no saved file restores.
    quantizer = VectorQuantizer(16, 4, revival_threshold=0.0, seed=0)
    return VQVAE((8, 8, 1), quantizer=quantizer, **SIZES, **kwargs)


def make_vae(**kwargs):
    return VAE((8, 8, 1), latent_dim=2, seed=0, **SIZES, **kwargs)


def make_dit(num_layers=1, num_classes=None, **kwargs):
    network = DiT((8, 8, 1), patch_size=4, hidden_dim=16, num_layers=num_layers, num_heads=2, num_classes=num_classes)
    return DiffusionTransformer(network, seed=0, **{"ema_decays": (), **kwargs})


MODELS = {
    "vqvae": (make_vqvae, {"x": X}),
    "vae": (make_vae, {"x": X, "noise": LATENT_NOISE}),
    "dit": (make_dit, {"x": X, "t": T, "noise": NOISE}),
    "multimodal": (make_multimodal, {**batch_of(ROWS, given=True), "task": np.zeros(ROWS, "int32")}),
}
each_model = pytest.mark.parametrize("make, batch", MODELS.values(), ids=MODELS)


def state(model):
    """Everything that training changes except the random seeds and the metrics."""
    variables = [v for v in model.variables if "seed" not in v.path] + model.optimizer.variables
    return {f"{i} {v.path}": ops.convert_to_numpy(v.value) for i, v in enumerate(variables)}


def assert_same(before, after):
    assert before
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def heavy(test):
    """Slow on JAX, which compiles every new operation for itself where it runs eagerly."""
    return pytest.mark.slow(test) if BACKEND == "jax" else test


def compile_eagerly(model, optimizer):
    """Op by op, where compilation is not what is tested: XLA takes seconds for the smallest model."""
    model.compile(optimizer, run_eagerly=True)


def weights_of(variables):
    return [ops.convert_to_numpy(v.value) for v in variables]


def loss_of(model, batch):
    """The loss at training=False, by the public methods alone."""
    batch = keras.tree.map_structure(ops.convert_to_tensor, batch)
    loss = model.compute_loss(x=batch, y_pred=model(batch, training=False), training=False)
    return float(ops.convert_to_numpy(loss))


def set_deterministic(model):
    """The same weights on every backend."""
    for i, variable in enumerate(model.trainable_variables):
        values = 0.1 * np.cos(np.arange(np.prod(variable.shape)) + i)
        variable.assign(values.reshape(variable.shape).astype("float32"))
    for average in model.averages:
        average.reset(model.trainable_variables)


def check_served(tokenizer, x, folder):
    """A SavedModel of it, called by a process that knows TensorFlow alone, gives its tokens and its signals."""
    served = tokenizer.export(folder / "served", verbose=False)
    np.savez(folder / "in.npz", x=x.astype("float32"))
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures\n"
        "x = tf.constant(np.load(sys.argv[2])['x'])\n"
        "tokens = served['encode'](x=x)['tokens']\n"
        "decoded, whole = served['decode'](tokens=tokens), served['reconstruct'](x=x)\n"
        "if tokens.dtype == tf.int32:\n"
        "    for wrong in (tokens + 10**6, tokens - 10**6):\n"
        "        try:\n"
        "            served['decode'](tokens=wrong)\n"
        "            sys.exit('codes out of range were decoded')\n"
        "        except tf.errors.InvalidArgumentError as error:\n"
        "            assert 'ids must be in' in str(error)\n"
        "np.savez(sys.argv[3], tokens=tokens, x=decoded['x'], whole=whole['x'])\n"
        "assert 'keras_mmai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, served, folder / "in.npz", folder / "out.npz"], check=True)
    out = np.load(folder / "out.npz")
    tokens = ops.convert_to_numpy(tokenizer.encode(x.astype("float32")))
    if tokenizer.vocabulary:
        np.testing.assert_array_equal(out["tokens"], tokens)
    np.testing.assert_allclose(out["tokens"], tokens, atol=1e-5)
    np.testing.assert_allclose(out["x"], ops.convert_to_numpy(tokenizer.decode(out["tokens"])), atol=1e-5)
    np.testing.assert_array_equal(out["x"], out["whole"])
