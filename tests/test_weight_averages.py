import itertools

import keras
import numpy as np
import pytest
from small_models import (
    DECAYS,
    MODELS,
    NOISE,
    T,
    X,
    compile_eagerly,
    heavy,
    make_dit,
    weights_of,
)

from keras_mmai.training import WeightAverage


def numpy_average(start, steps, decay):
    average = [w.astype("float64") for w in start]
    for n, weights in enumerate(steps, start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights)]
    return average


@pytest.mark.parametrize("every", [1, 2])
def test_averages_equal_numpy(every):
    model = make_dit(ema_decays=DECAYS)
    steps = None if every == 1 else every
    compile_eagerly(model, keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps))
    start, updates, averages = weights_of(model.trainable_variables), [], []
    for step in range(1, 9):
        model.train_on_batch({"x": X, "t": np.roll(T, step), "noise": NOISE})
        averages.append(weights_of(model.averages[0].average))
        if step % every == 0:
            updates.append(weights_of(model.trainable_variables))
    assert any((a != b).any() for a, b in zip(updates[-1], updates[-2]))
    for index, decay in enumerate(DECAYS):
        expected = numpy_average(start, updates, decay)
        for value, wanted in zip(weights_of(model.averages[index].average), expected):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    moves = [any((a != b).any() for a, b in zip(old, new)) for old, new in itertools.pairwise(averages)]
    assert moves == [step % every == 0 for step in range(2, 9)]


@heavy
def test_averages_stay_float32_and_move_under_a_low_precision_policy():
    keras.config.set_dtype_policy("bfloat16")
    model = make_dit(ema_decays=(0.999,))
    compile_eagerly(model, keras.optimizers.SGD(0.1))
    before = weights_of(model.averages[0].average)
    model.train_on_batch(MODELS["dit"][1])
    model.train_on_batch(MODELS["dit"][1])
    after = weights_of(model.averages[0].average)
    assert {value.dtype.name for value in after} == {"float32"}
    assert any((a != b).any() for a, b in zip(before, after))
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.network.trainable_variables} == {"bfloat16"}


@heavy
def test_accumulation_is_seen_through_a_loss_scale_optimizer():
    model = make_dit(ema_decays=(0.3,))
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    compile_eagerly(model, keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0))
    averages = []
    for step in range(4):
        model.train_on_batch({"x": X, "t": np.roll(T, step), "noise": NOISE})
        averages.append(weights_of(model.averages[0].average))
    moves = [any((a != b).any() for a, b in zip(old, new)) for old, new in itertools.pairwise(averages)]
    assert moves == [True, False, True]


def test_averaged_weights_by_index():
    model = make_dit(ema_decays=DECAYS)
    assert all(a is b for a, b in zip(model.averaged_weights(1), model.averages[1].average))
    with pytest.raises(ValueError, match=r"one of 0\.\.1 .*Received: index=2"):
        model.averaged_weights(2)
    model = make_dit()
    assert all(a is b for a, b in zip(model.averaged_weights(), model.trainable_variables))
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        WeightAverage(1.0)
