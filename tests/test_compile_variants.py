import keras
import numpy as np
import pytest
from small_models import BACKEND, LATENT_NOISE, MODELS, ROWS, X, make_vae, set_deterministic, weights_of


def fitted(optimizer=None, **kwargs):
    model = make_vae(ema_decays=(0.3,))
    set_deterministic(model)
    model.compile(optimizer or keras.optimizers.SGD(0.05), **kwargs)
    data = {"x": np.concatenate([X, -X]), "noise": np.concatenate([LATENT_NOISE, -LATENT_NOISE])}
    history = model.fit(data, batch_size=ROWS, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], weights_of(model.averages[0].average)


@pytest.fixture(scope="module")
def plain():
    """Of a VAE, since JAX has no float16 attention on a CPU."""
    return fitted(jit_compile=False)


VARIANTS = {
    "jit": dict(jit_compile=True),
    "eager": dict(run_eagerly=True),
    "steps_per_execution": dict(steps_per_execution=2, jit_compile=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_compile_variants_give_the_same_numbers(name, plain):
    if BACKEND == "torch" and name != "eager":
        pytest.skip("torch.compile takes minutes here, and Keras has one step in an execution on torch")
    losses, average = fitted(**VARIANTS[name])
    np.testing.assert_allclose(losses, plain[0], rtol=1e-4)
    for value, wanted in zip(average, plain[1]):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_nearly_the_same_numbers(policy, plain):
    keras.config.set_dtype_policy(policy)
    losses, average = fitted()
    np.testing.assert_allclose(losses, plain[0], rtol=0.02)
    assert max(np.abs(value - wanted).max() for value, wanted in zip(average, plain[1])) < 0.02


def test_the_loss_scale_falls_on_overflow_until_training_goes_on():
    keras.config.set_dtype_policy("mixed_float16")
    model, batch = make_vae(ema_decays=(0.3,)), MODELS["vae"][1]
    set_deterministic(model)
    model.compile(keras.optimizers.SGD(0.05))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.optimizer.initial_scale = 2.0**26
    before = weights_of(model.trainable_variables)
    data = {key: np.concatenate([value] * 25) for key, value in batch.items()}
    history = model.fit(data, batch_size=ROWS, verbose=0, shuffle=False).history
    skipped = history["skipped_steps"][0]
    assert 3 <= skipped < 25
    assert float(model.optimizer.dynamic_scale) == 2.0 ** (26 - skipped)
    assert int(model.optimizer.iterations) == 25 - skipped
    assert np.isfinite(history["loss"][0]) and 0 < history["gradient_norm"][0] < 100
    after = weights_of([*model.trainable_variables, *model.averages[0].average])
    assert all(np.isfinite(value).all() for value in after)
    assert any((a != b).any() for a, b in zip(before, after))
