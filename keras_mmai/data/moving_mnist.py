"""Videos of digits that move and bounce, after Moving MNIST (Srivastava et al. 2015, arXiv:1502.04681).

A digit has a corner p_0 drawn uniformly and a velocity v of uniform direction and speed, both constant. Along each axis
the corner moves in [0, L], L = size of the frame less that of the digit. Reflection at both ends is the triangle wave

    p(t) = L - |((p_0 + v t) mod 2 L) - L|                                                                          (1)

so frame t needs none of those before it. Corners are rounded to whole pixels, as in the original data; where digits
overlap, the brighter pixel is seen.
"""

import numpy as np


def bouncing_positions(start, velocity, limit, num_frames):
    """Equation (1).

    Args:
        start: (...) float in [0, limit], pixels.
        velocity: (...) float, pixels per frame.
        limit: float >= 0, pixels.
        num_frames: int.

    Returns:
        float64 (..., num_frames) in [0, limit].
    """
    start, velocity = np.asarray(start, "float64")[..., None], np.asarray(velocity, "float64")[..., None]
    free = start + velocity * np.arange(num_frames)  # (..., num_frames), as if there were no border
    if limit == 0:
        return np.zeros_like(free)
    return limit - np.abs(np.mod(free, 2.0 * limit) - limit)


def moving_digits(images, labels, n, num_frames=17, size=(64, 64), num_digits=2, speed=(2.0, 5.0), seed=0):
    """Videos of images that move at constant velocity and bounce at the borders.

    Video i depends on `seed` and i, not on `n`; its first frames do not depend on `num_frames`.

    Args:
        images: (m, h, w, c) float in [-1, 1] with -1 as background, for example `load_mnist()["train"]["images"]`.
        labels: (m,) integers.
        n: number of videos.
        num_frames: frames in a video.
        size: (height, width) of a frame in pixels, at least that of the images.
        num_digits: digits in a video.
        speed: (lowest, highest) speed, drawn uniformly, in pixels per frame.
        seed: int >= 0.

    Returns:
        `{"videos", "labels"}`: float32 `(n, num_frames, height, width, c)` in [-1, 1], and int32 `(n, num_digits)`,
        which digits.
    """
    images, labels = np.asarray(images, "float32"), np.asarray(labels)
    _check(images, labels, n, num_frames, size, num_digits, speed)
    h, w, c = images.shape[1:]
    # RandomState's stream is frozen by numpy: the same videos for ever.
    draws = np.random.RandomState(seed).uniform(size=(n, num_digits, 5))
    chosen = (draws[..., 0] * len(images)).astype("int64")  # (n, digits)
    angle = 2.0 * np.pi * draws[..., 1]
    pace = speed[0] + (speed[1] - speed[0]) * draws[..., 2]  # pixels per frame
    corners = [
        np.rint(bouncing_positions(limit * place, pace * direction, limit, num_frames)).astype("int64")
        for limit, place, direction in (
            (size[0] - h, draws[..., 3], np.sin(angle)),
            (size[1] - w, draws[..., 4], np.cos(angle)),
        )
    ]  # top and left, each (n, digits, frames)

    videos = np.full((n, num_frames, *size, c), -1.0, "float32")
    video = np.arange(n)[:, None, None]
    for digit in range(num_digits):
        pixels = images[chosen[:, digit]]  # (n, h, w, c)
        for frame in range(num_frames):
            top, left = (corner[:, digit, frame] for corner in corners)
            rows = top[:, None, None] + np.arange(h)[:, None]  # (n, h, 1)
            columns = left[:, None, None] + np.arange(w)  # (n, 1, w)
            place = (video, frame, rows, columns)
            videos[place] = np.maximum(videos[place], pixels)
    return {"videos": videos, "labels": labels[chosen].astype("int32")}


def _check(images, labels, n, num_frames, size, num_digits, speed):
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"`images` must be (m, h, w, c), and not empty. Received shape: {images.shape}")
    if not (images.min() >= -1.0 and images.max() <= 1.0):  # so that NaN fails too
        raise ValueError(
            "`images` must be in [-1, 1]; 0...255 is brought there by `images / 127.5 - 1`. "
            f"Received values from {images.min():.4g} to {images.max():.4g}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be one integer for each image. Received: {labels.dtype} {labels.shape} for {images.shape}"
        )
    if min(n, num_frames, num_digits) < 1:
        raise ValueError(
            "`n`, `num_frames` and `num_digits` must be at least 1. "
            f"Received: n={n}, num_frames={num_frames}, num_digits={num_digits}"
        )
    if len(size) != 2 or size[0] < images.shape[1] or size[1] < images.shape[2]:
        raise ValueError(
            f"`size` must be (height, width) of at least the images' {images.shape[1:3]}. Received: size={size}"
        )
    if len(speed) != 2 or not 0.0 <= speed[0] <= speed[1] < np.inf:
        raise ValueError(f"`speed` must be (lowest, highest) in pixels per frame, lowest >= 0. Received: speed={speed}")
