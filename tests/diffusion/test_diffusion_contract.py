"""What every public object of `keras_mmai.diffusion` has to pass; samplers, schedules and times have tests of their own
over the same examples."""

import keras
import numpy as np
import pytest
from keras import ops

from examples import EXAMPLES, PROCESSES, PUBLIC
from keras_mmai import diffusion


def test_every_public_object_has_an_example():
    assert sorted(EXAMPLES) == PUBLIC, "add the new object to tests/diffusion/examples.py (or remove the old one)"
    assert all(type(example).__name__ == name for name, example in EXAMPLES.items())


@pytest.mark.parametrize("name", PUBLIC)
def test_config_round_trip(name):
    example = EXAMPLES[name]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(example))
    assert copy == example and copy is not example and hash(copy) == hash(example)
    assert eval(repr(example), vars(diffusion).copy()) == example


@pytest.mark.parametrize("name", [name for name in PUBLIC if isinstance(EXAMPLES[name], diffusion.Times)])
def test_times_lie_inside_and_rise(name, compiled):
    u = np.linspace(0, 1, 100, endpoint=False, dtype="float32")
    t = ops.convert_to_numpy(compiled(EXAMPLES[name])(ops.convert_to_tensor(u)))
    assert t.dtype == np.float32 and t[0] > 0 and t[-1] < 1 and (np.diff(t) > 0).all()


numpy = ops.convert_to_numpy
ROWS, SHAPE = 3, (4, 2)


def drawn(process):
    """Data (b, n, c), other data, and noise of a process."""
    random, size = np.random.RandomState(0), (ROWS, *SHAPE)
    if hasattr(process, "vocabulary"):
        x = random.randint(0, process.vocabulary, size).astype("int32")
        return x, (x + 1) % process.vocabulary, random.rand(*size).astype("float32")
    return tuple(random.normal(size=size).astype("float32") for _ in range(3))


def perfect(process, x, target):
    """What a network would say that knows the data."""
    if hasattr(process, "vocabulary"):
        return 50.0 * (x[..., None] == np.arange(process.vocabulary)).astype("float32")
    return target


@pytest.fixture(params=PROCESSES, ids=repr)
def process(request):
    return request.param


def test_a_process_goes_from_data_to_what_sampling_starts_from(process):
    x, other, noise = drawn(process)
    for t in (0.0, np.zeros(ROWS, "float32"), np.zeros((ROWS, 4), "float32")):
        np.testing.assert_allclose(numpy(process.corrupt(x, t, noise)[0]), x, atol=1e-6)
    (one, _), (same, _) = (process.corrupt(data, 1.0, noise) for data in (x, other))
    prior = numpy(process.prior(noise))
    for end in (one, same):  # some data is left by a chain that does not end in noise alone
        np.testing.assert_allclose(numpy(end), prior, atol=0.01 * np.abs(x).max())


def test_noise_levels_of_a_process_are_those_of_rows_or_tokens(process):
    x, _, noise = drawn(process)
    t = np.array([0.2, 0.5, 0.8], "float32")
    whole = process.corrupt(x, t, noise)
    shape = (*x.shape, process.vocabulary) if hasattr(process, "vocabulary") else x.shape
    output = np.random.RandomState(1).normal(size=shape).astype("float32")
    loss = numpy(process.loss(output, whole[1], t))
    assert loss.shape == (ROWS,) and loss.dtype == "float32" and (loss > 0).all()
    each = [process.corrupt(x[i : i + 1], float(level), noise[i : i + 1]) for i, level in enumerate(t)]
    of_tokens = process.corrupt(x, np.repeat(t[:, None], 4, axis=1), noise)
    for place in (0, 1):
        rows = np.concatenate([numpy(pair[place]) for pair in each])
        np.testing.assert_allclose(numpy(whole[place]), rows, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(numpy(of_tokens[place]), numpy(whole[place]))
    rows = [numpy(process.loss(output[i : i + 1], each[i][1], float(t[i])))[0] for i in range(ROWS)]
    np.testing.assert_allclose(loss, rows, rtol=1e-5)


def test_the_loss_of_a_process_is_least_where_the_data_is_known(process):
    x, _, noise = drawn(process)
    t = np.array([0.3, 0.5, 0.7], "float32")
    x_t, target = (numpy(a) for a in process.corrupt(x, t, noise))
    known = perfect(process, x, target)
    np.testing.assert_allclose(numpy(process.loss(known, target, t)), 0, atol=1e-6)
    assert (numpy(process.loss(np.roll(known, 1, axis=-1), target, t)) > 0.1).all()
    found = process.split(known, x_t, t)
    if isinstance(found, tuple):  # data and noise
        np.testing.assert_allclose(numpy(found[1]), noise, atol=1e-3)
        found = found[0]
    else:  # probabilities of ids
        found = ops.argmax(found, axis=-1)
    np.testing.assert_allclose(numpy(found), x, atol=1e-3)
