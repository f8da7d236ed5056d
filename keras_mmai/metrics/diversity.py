"""Are all classes generated, and do samples of one differ from each other as much as real ones do?"""

import numpy as np

from keras_mmai.metrics.features import as_features


def class_entropy(labels, num_classes):
    """Entropy of the classes found over that of equally many of each, log(num_classes).

    Args:
        labels: ints (n,), in 0..num_classes-1; those below 0, of which nobody knows the class, do not count.
        num_classes: int, at least 2.

    Returns:
        A float in [0, 1]: 1 = all are as frequent, 0 = there is only one.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or num_classes < 2 or np.any(labels >= num_classes):
        raise ValueError(
            "`labels` are ints (n,) below `num_classes`, which is at least 2. Received: "
            f"{labels!r:.100} and num_classes={num_classes}"
        )
    counts = np.bincount(labels[labels >= 0])
    p = counts[counts > 0] / max(1, counts.sum())
    return float(np.sum(p * np.log(1 / p)) / np.log(num_classes))


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
