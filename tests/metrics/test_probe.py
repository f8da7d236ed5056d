import numpy as np
import pytest

from keras_mmai.metrics import linear_probe

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 90)
FEATURES = RANDOM.normal(size=(90, 5)) + 4.0 * np.eye(5)[LABELS]


def test_is_ridge_regression_of_standardised_features():
    scores = linear_probe(FEATURES[:60], LABELS[:60], FEATURES[60:], penalty=3.0)
    x = (FEATURES - FEATURES[:60].mean(0)) / FEATURES[:60].std(0)
    # least squares on rows that pull each weight, but not the bias, to 0
    rows = np.concatenate([np.c_[x[:60], np.ones(60)], 3.0**0.5 * np.eye(5, 6)])
    targets = np.concatenate([np.eye(3)[LABELS[:60]], np.zeros((5, 3))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(scores, np.c_[x[60:], np.ones(30)] @ weights, atol=1e-10)
    assert np.mean(scores.argmax(-1) == LABELS[60:]) > 0.9


def test_units_of_features_do_not_matter_and_constant_ones_say_nothing():
    scores = linear_probe(FEATURES, LABELS, FEATURES[:9])
    other = np.c_[FEATURES * [1e-3, 1.0, 50.0, 2.0, -1.0] + 7.0, np.full(90, 4.0)]
    np.testing.assert_allclose(linear_probe(other, LABELS, other[:9]), scores, atol=1e-8)
    np.testing.assert_allclose(linear_probe(other, LABELS, other[:1]), scores[:1], atol=1e-8)


def test_labels_that_have_nothing_to_do_with_features_are_not_found():
    labels = RANDOM.integers(0, 3, 90)
    found = linear_probe(FEATURES[:60], labels[:60], FEATURES[60:]).argmax(-1)
    assert np.mean(found == labels[60:]) < 0.6


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(labels=LABELS[:5]), "one of each row"),
        (dict(labels=LABELS - 1), "ints 0.."),
        (dict(labels=LABELS * 1.0), "ints 0.."),
        (dict(new_features=FEATURES[:, :4]), "as wide"),
        (dict(penalty=float("nan")), "above 0"),
        (dict(features=np.where(FEATURES > 3, np.nan, FEATURES)), "finite"),
    ],
)
def test_errors(changed, message):
    with pytest.raises(ValueError, match=message):
        linear_probe(**{**dict(features=FEATURES, labels=LABELS, new_features=FEATURES), **changed})
