"""Wrappers that replace the step, such as differential privacy, find the losses where Keras has them."""

import numpy as np
import pytest
from small_models import BACKEND, DECAYS, MODELS, compile_eagerly, each_model, loss_of, set_deterministic

GOLDEN = {"vqvae": 0.4551611, "vae": 0.3761888, "dit": 1.4806517}  # the same on every backend


@pytest.mark.parametrize("name", GOLDEN)
def test_a_step_of_ones_own_needs_call_and_compute_loss_alone(name):
    make, batch = MODELS[name]
    model = make()
    set_deterministic(model)
    if name == "vqvae":
        model.quantizer.embeddings.assign(np.sin(np.arange(64.0)).reshape(16, 4))
    first, second = (loss_of(model, batch) for _ in range(2))
    assert first == second  # the losses of layers are those of the last call
    assert first == pytest.approx(GOLDEN[name], rel=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the stateless step of a wrapper is JAX's")
@each_model
def test_the_stateless_step_of_a_wrapper_gives_the_same_loss(make, batch):
    import jax

    model = make(ema_decays=DECAYS)
    set_deterministic(model)
    compile_eagerly(model, "sgd")
    trainable, fixed, metrics = (
        [v.value for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
    )

    def loss(trainable, batch):
        y_pred, state, losses = model.stateless_call(trainable, fixed, batch, training=False, return_losses=True)
        model._losses_override = losses
        value, _ = model.stateless_compute_loss(trainable, state, metrics, x=batch, y_pred=y_pred, training=False)
        model._losses_override = []
        return value

    @jax.jit
    def step(trainable, batch):
        # one example at a time, as differential privacy needs it
        each = jax.vmap(jax.grad(lambda t, row: loss(t, jax.tree.map(lambda v: v[None], row))), in_axes=(None, 0))
        return *jax.value_and_grad(loss)(trainable, batch), each(trainable, batch)

    whole, gradients, each = step(trainable, batch)
    assert float(whole) == pytest.approx(loss_of(model, batch), rel=1e-5)
    for gradient, rows in zip(gradients, each):
        np.testing.assert_allclose(rows.mean(0), gradient, atol=1e-5)
