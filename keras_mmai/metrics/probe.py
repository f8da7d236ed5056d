"""What do features tell? Asked by a linear map (Alain, Bengio. Understanding intermediate layers. 2016)."""

import numpy as np

from keras_mmai.metrics.features import as_features


def linear_probe(features, labels, new_features, penalty=1.0):
    """Scores of classes, by the linear map that ridge regression finds between features and labels.

    Features are standardised by those that are learned from, and labels are one-hot vectors. Nothing is drawn.

    Args:
        features: (n, d), of examples to learn from.
        labels: ints 0.., (n,), their classes.
        new_features: (m, d), of other examples.
        penalty: float above 0, weight of the map's squared norm.

    Returns:
        float64 (m, classes): near 1 for the class that an example is taken for and near 0 for others, as they are
        fitted to 1 and 0; no probabilities. `argmax(-1)` is the class.

    Raises:
        ValueError: on features that are not finite or not of one width, or other labels.
    """
    x, y = as_features(features, "features"), as_features(new_features, "new_features", least=1)
    labels = np.asarray(labels)
    if labels.shape != x.shape[:1] or labels.dtype.kind not in "iu" or np.any(labels < 0):
        raise ValueError(
            f"`labels` are ints 0.., one of each row of `features`, {x.shape[:1]}. Received: {labels.shape} "
            f"{labels.dtype}, {labels!r:.60}"
        )
    if x.shape[1] != y.shape[1] or not penalty > 0:
        raise ValueError(
            f"`new_features` are as wide as `features`, and `penalty` is above 0. Received: {y.shape[1]}, "
            f"{x.shape[1]}, penalty={penalty}"
        )
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1.0
    x, y = ((of - mean) / deviation for of in (x, y))
    targets = np.eye(labels.max() + 1)[labels]
    bias = targets.mean(0)  # of standardised features, whose mean is 0, the bias is that of the targets
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - bias))
    return y @ weights + bias
