"""What the metrics on features agree on: float64, two axes, finite."""

import numpy as np


def as_features(features, name, least=2):
    """`features` as float64 `(n, d)`, of at least so many rows, or an error that calls them `name`."""
    features = np.asarray(features, "float64")
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"`{name}` must be (n, d) with n >= {least} rows, one feature vector for each sample; flatten or pool "
            f"other axes first. Received shape: {features.shape}"
        )
    if not np.isfinite(features).all():
        bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(f"`{name}` must be finite: {bad} of {len(features)} rows hold NaN or infinity.")
    return features
