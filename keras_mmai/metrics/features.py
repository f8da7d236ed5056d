"""What the metrics on features agree on: float64, two axes, finite."""

import numpy as np


def as_features(features, name):
    """`features` as float64 `(n, d)`, or an error that calls them `name`."""
    features = np.asarray(features, "float64")
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"`{name}` must be (n, d) with n >= 2 rows, one feature vector for each sample; flatten or pool other axes "
            f"first. Received shape: {features.shape}"
        )
    if not np.isfinite(features).all():
        bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(f"`{name}` must be finite: {bad} of {len(features)} rows hold NaN or infinity.")
    return features
