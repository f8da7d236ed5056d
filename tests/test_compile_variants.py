import functools

import keras
import numpy as np
import pytest
from small_models import BACKEND, MODELS, ROWS, make_vae, set_deterministic, weights_of


def fitted(name, gradient_accumulation_steps=None, **kwargs):
    """Losses, and what training moved, of two epochs of two batches."""
    make, batch = MODELS[name]
    model = make(ema_decays=(0.3,))
    set_deterministic(model)
    if name == "vqvae":  # XLA draws other numbers, by which a codebook would start
        codes = np.sin(np.arange(64.0)).reshape(16, 4)
        model.quantizer.embeddings.assign(codes)
        model.quantizer.shift.assign(codes)
        model.quantizer.initialized.assign(1.0)
    model.compile(keras.optimizers.SGD(0.05, gradient_accumulation_steps=gradient_accumulation_steps), **kwargs)
    data = {key: np.concatenate([value, value if key == "t" else -value]) for key, value in batch.items()}
    history = model.fit(data, batch_size=ROWS, epochs=2, shuffle=False, verbose=0).history
    moved = [*model.averages[0].average, *([model.quantizer.embeddings] if name == "vqvae" else [])]
    return history["loss"], weights_of(moved)


@pytest.fixture(scope="module")
def plain():
    """name, gradient_accumulation_steps -> what a model does step by step, made once."""
    return functools.cache(lambda name, steps=None: fitted(name, steps, run_eagerly=True))


# Each further model costs seconds of compilation. JAX has no float16 attention on a CPU, so the VAE stands for all.
each_name = pytest.mark.parametrize(
    "name", ["vae", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vqvae", "dit"))]
)


VARIANTS = {
    "graph": dict(jit_compile=False),
    "jit": dict(jit_compile=True),
    "steps_per_execution": dict(steps_per_execution=2, jit_compile=False),
    "accumulation": dict(gradient_accumulation_steps=2),
    "jit_accumulation": dict(gradient_accumulation_steps=2, jit_compile=True),
}


@each_name
@pytest.mark.parametrize("variant", VARIANTS)
def test_compile_variants_give_the_same_numbers(variant, name, plain):
    arguments = VARIANTS[variant]
    if BACKEND == "torch" and (arguments.get("jit_compile") or "steps_per_execution" in arguments):
        pytest.skip("torch.compile takes minutes here, and Keras has one step in an execution on torch")
    losses, moved = fitted(name, **arguments)
    expected = plain(name, arguments.get("gradient_accumulation_steps"))
    np.testing.assert_allclose(losses, expected[0], rtol=1e-4)
    for value, wanted in zip(moved, expected[1]):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces nothing")
def test_a_step_is_traced_once(monkeypatch):
    traces = []
    model, batch = make_vae(ema_decays=(0.3,)), MODELS["vae"][1]
    losses = model.named_losses
    monkeypatch.setattr(model, "named_losses", lambda *args: traces.append(1) or losses(*args))
    model.compile(keras.optimizers.Adam())
    data = {key: np.concatenate([value, value]) for key, value in batch.items()}
    model.fit(data, batch_size=ROWS, epochs=2, verbose=0)
    assert len(traces) == 1


@each_name
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_nearly_the_same_numbers(policy, name, plain):
    if BACKEND == "jax" and (policy, name) == ("mixed_float16", "dit"):
        pytest.skip("JAX has no float16 attention on a CPU")
    expected = plain(name)
    keras.config.set_dtype_policy(policy)
    losses, moved = fitted(name)
    np.testing.assert_allclose(losses, expected[0], rtol=0.03)
    assert max(np.abs(value - wanted).max() for value, wanted in zip(moved, expected[1])) < 0.03


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
