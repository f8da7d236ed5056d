"""What every public object of `keras_mmai.diffusion` has to pass; samplers, schedules and times have tests of their own
over the same examples."""

import keras
import numpy as np
import pytest
from keras import ops

from examples import EXAMPLES, PUBLIC
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
