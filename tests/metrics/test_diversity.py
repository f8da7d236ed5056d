import numpy as np
import pytest

from keras_mmai.metrics import class_entropy, within_class_spread

LABELS = np.repeat([0, 1, 2], 20)
FEATURES = np.random.default_rng(0).normal(size=(60, 4)) + 10.0 * LABELS[:, None]
MEANS = np.stack([FEATURES[label == LABELS].mean(axis=0) for label in range(3)])[LABELS]


def spread(features, labels=LABELS):
    return within_class_spread(features, labels, FEATURES, LABELS)


def test_one_for_the_reference_itself_in_any_order_and_place():
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(spread(FEATURES[order] + 5.0, LABELS[order]), 1.0, rtol=1e-12)


def test_shrinking_towards_the_class_mean_scales_by_the_square_down_to_zero():
    np.testing.assert_allclose(spread(MEANS + 0.5 * (FEATURES - MEANS)), 0.25, rtol=1e-12)
    assert spread(MEANS) < 1e-20


def test_is_the_ratio_of_mean_traces():
    features = FEATURES * np.array([1.0, 2.0, 0.5, 0.0])
    traces = [[np.trace(np.cov(x[label == LABELS].T)) for label in range(3)] for x in (features, FEATURES)]
    np.testing.assert_allclose(spread(features), np.mean(traces[0]) / np.mean(traces[1]), rtol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"only in `reference_labels`: \[2\]"):
        spread(FEATURES[:40], LABELS[:40])
    with pytest.raises(ValueError, match="Class 2 has 1"):
        spread(FEATURES[:41], LABELS[:41])
    with pytest.raises(ValueError, match="one class for each row"):
        spread(FEATURES, LABELS[:40])
    with pytest.raises(ValueError, match="no spread to compare"):
        within_class_spread(FEATURES, LABELS, np.zeros_like(FEATURES), LABELS)
    with pytest.raises(ValueError, match="must be finite"):
        spread(np.where(FEATURES > 20, np.inf, FEATURES))


def test_class_entropy_by_hand():
    assert class_entropy(np.array([0, 1, 2, 3, -1]), 4) == pytest.approx(1.0)
    assert class_entropy(np.array([2, 2]), 4) == class_entropy(np.array([-1]), 4) == 0.0
    p = np.array([0.75, 0.25])
    assert class_entropy(np.array([0, 0, 3, 0]), 8) == pytest.approx(-np.sum(p * np.log2(p)) / 3)


@pytest.mark.parametrize("labels, num_classes", [([0, 3], 3), ([0.0], 3), ([[0]], 3), ([0], 1)])
def test_class_entropy_of_other_labels(labels, num_classes):
    with pytest.raises(ValueError, match="`labels` are ints"):
        class_entropy(np.array(labels), num_classes)
