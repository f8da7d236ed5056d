"""Do samples of one class differ from each other as much as real ones do?"""

import numpy as np

from keras_mmai.metrics.features import as_features


def within_class_spread(features, labels, reference_features, reference_labels):
    """Spread of samples within their class, relative to a reference.

    The spread is the mean over classes of the trace of the within-class covariance. A Frechet distance mixes quality
    and diversity; this looks at diversity alone, and is what strong guidance takes away.

    Args:
        features: (n, d) of generated samples.
        labels: int (n,), the class each was generated for.
        reference_features: (m, d) of real samples, from the same extractor.
        reference_labels: int (m,), the same classes.

    Returns:
        A float: 1 = as diverse as the reference, 0 = one sample per class, above 1 = scattered.
    """
    spread = _spread_by_class(features, labels, "features", "labels")
    reference = _spread_by_class(reference_features, reference_labels, "reference_features", "reference_labels")
    if spread.keys() != reference.keys():
        raise ValueError(
            "Samples and reference must hold the same classes. "
            f"Only in `labels`: {sorted(spread.keys() - reference.keys())}; "
            f"only in `reference_labels`: {sorted(reference.keys() - spread.keys())}"
        )
    scale = np.mean(list(reference.values()))
    if scale == 0.0:
        raise ValueError("All reference samples of a class are equal, so there is no spread to compare with.")
    return float(np.mean(list(spread.values())) / scale)


def _spread_by_class(features, labels, features_name, labels_name):
    features, labels = as_features(features, features_name), np.asarray(labels)
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"`{labels_name}` must be one class for each row of `{features_name}`. "
            f"Received shapes: {labels.shape} and {features.shape}"
        )
    spread = {}
    for label in np.unique(labels):
        rows = features[labels == label]
        if len(rows) < 2:
            raise ValueError(f"`{features_name}` need at least 2 rows of each class. Class {label} has 1.")
        spread[label.item()] = rows.var(axis=0, ddof=1).sum()  # the trace of the class's covariance
    return spread
