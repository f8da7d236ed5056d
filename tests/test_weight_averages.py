import itertools

import keras
import numpy as np
import pytest
from keras import ops
from small_models import (
    DECAYS,
    MODELS,
    NOISE,
    T,
    X,
    compile_eagerly,
    heavy,
    loss_of,
    make_dit,
    weights_of,
)

from keras_mmai.averages import WeightAverage


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
    weights = model.trainable_variables
    assert all(a is b for a, b in zip(model.averaged_weights(weights, 1), model.averages[1].average))
    assert model.averaged_weights([model.network.position_table]) == [model.network.position_table]
    with pytest.raises(ValueError, match=r"one of 0\.\.1 .*Received: index=2"):
        model.averaged_weights(weights, 2)
    plain = make_dit()
    assert all(a is b for a, b in zip(plain.averaged_weights(weights), weights))
    model.averages[1].average[3].assign_add(ops.ones(weights[3].shape))
    before = weights_of(weights)
    model.assign_averages(1)
    for i, (old, new) in enumerate(zip(before, weights_of(weights))):
        np.testing.assert_allclose(new - old, float(i == 3), atol=1e-6)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        WeightAverage(1.0)


def test_averages_keep_to_their_weights_when_some_are_frozen_later():
    """The first trainable weight is then another one, of the same shape or not."""
    model = make_dit(num_layers=2, ema_decays=(0.5,))
    compile_eagerly(model, keras.optimizers.SGD(0.1))
    model.train_on_batch(MODELS["dit"][1])
    model.network.patch_embed.trainable = False
    model.network.blocks[0].trainable = False
    compile_eagerly(model, keras.optimizers.SGD(0.1))
    frozen = weights_of(model.network.blocks[0].weights)
    model.train_on_batch(MODELS["dit"][1])
    for a, b in zip(frozen, weights_of(model.network.blocks[0].weights)):
        np.testing.assert_array_equal(a, b)
    evaluated = model.evaluate(MODELS["dit"][1], batch_size=8, verbose=0, return_dict=True)["loss"]
    copy = model.generator(num_steps=1).network
    followed = dict(zip([v.path for v in model._followed()], weights_of(model.averages[0].average)))
    assert len(followed) == len(copy.variables) - 1  # all but the table of positions
    for ours, theirs in zip(model.network.variables, copy.variables):
        if ours.path in followed:
            np.testing.assert_array_equal(theirs, followed[ours.path], err_msg=ours.path)
    model.assign_averages()
    assert loss_of(model, MODELS["dit"][1]) == pytest.approx(evaluated, rel=1e-5)
