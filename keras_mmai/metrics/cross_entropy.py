"""Binary cross-entropy of images and the floor under it, in nats per pixel.

Each pixel p in [0, 1] is read as the probability of a Bernoulli variable, each target q in [0, 1] as another:

    H(q, p) = -q log p - (1 - q) log(1 - p) = H(q) + KL(q | p)                                                      (1)

As grey targets are not 0 or 1, no model gets below the mean of H(q) (0.0584 on MNIST), only `H(q, p) - H(q)` goes to 0.
"""

import numpy as np

CLIP = 1e-7  # Keras's epsilon: a confident mistake costs 16.1 nats, not infinity.


def binary_cross_entropy(targets, images):
    """The mean of H(targets, images), eq. (1).

    Args:
        targets: the true images, any shape, in [0, 1].
        images: the predicted ones, same shape, in [0, 1]; clipped to [1e-7, 1 - 1e-7].

    Returns:
        A float in nats per pixel, at least `bernoulli_floor(targets)`.
    """
    images, targets = _unit_range(images, "images"), _unit_range(targets, "targets")
    if images.shape != targets.shape:
        raise ValueError(f"Shapes must agree. Received: images {images.shape}, targets {targets.shape}")
    return _mean_cross_entropy(images, targets)


def bernoulli_floor(targets):
    """The mean of H(targets): the lowest binary cross-entropy that any prediction can reach, eq. (1).

    Args:
        targets: any shape, in [0, 1].

    Returns:
        A float in nats per pixel: 0 for black-and-white targets, 0.0584 for MNIST, at most log 2.
    """
    targets = _unit_range(targets, "targets")
    return _mean_cross_entropy(targets, targets)


def _mean_cross_entropy(p, q):
    # Clipped alike on both sides, so that a perfect prediction is at the floor exactly.
    p = np.clip(p, CLIP, 1.0 - CLIP)
    return float(-np.mean(q * np.log(p) + (1.0 - q) * np.log1p(-p)))


def _unit_range(images, name):
    images = np.asarray(images, "float64")
    if images.size == 0:
        raise ValueError(f"`{name}` are empty. Received shape: {images.shape}")
    if not (images.min() >= 0.0 and images.max() <= 1.0):  # so that NaN fails too
        raise ValueError(
            f"`{name}` must be in [0, 1]; images in [-1, 1] are brought there by `(images + 1) / 2`. "
            f"Received values from {images.min():.4g} to {images.max():.4g}"
        )
    return images
