"""The Frechet distance between two Gaussians (Dowson & Landau 1982; as FID, Heusel et al. 2017, eq. 6):

    d^2 = |m - m_w|^2 + Tr(C + C_w - 2 (C C_w)^(1/2))                                                               (1)

With the symmetric roots S S = C and T T = C_w, C C_w has the eigenvalues of (S T)(S T)', so the trace of its root is
the sum of the singular values of S T. No root of a non-symmetric matrix, and no complex numbers, are needed.
"""

import numpy as np

from keras_mmai.metrics.features import as_features


def frechet_distance(features_a, features_b):
    """The squared Frechet distance (1) between Gaussians fitted to two sets of features.

    It has a bias that falls as 1 / n: compare only values of equal n, and print the real-against-real value beside it.

    Args:
        features_a: (n, d), for example a classifier's penultimate activations on generated samples.
        features_b: (m, d), the same of real samples.

    Returns:
        A float >= 0, in squared units of the features; 0 for the same mean and covariance.
    """
    features_a = as_features(features_a, "features_a")
    features_b = as_features(features_b, "features_b")
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            "Both sets must come from the same feature extractor, with one width d. "
            f"Received shapes: features_a {features_a.shape}, features_b {features_b.shape}"
        )
    mean_gap = features_a.mean(axis=0) - features_b.mean(axis=0)  # (d,)
    covariance_a, covariance_b = _covariance(features_a), _covariance(features_b)  # (d, d)
    product = _symmetric_root(covariance_a) @ _symmetric_root(covariance_b)
    trace_of_root = np.linalg.svd(product, compute_uv=False).sum()
    distance = mean_gap @ mean_gap + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * trace_of_root
    return max(float(distance), 0.0)  # rounding can leave -1e-15 for equal sets


def _covariance(features):
    centered = features - features.mean(axis=0)
    return centered.T @ centered / (len(features) - 1)


def _symmetric_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    # A covariance has no negative eigenvalue; rounding makes some when there are fewer samples than features.
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
