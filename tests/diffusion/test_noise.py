import numpy as np
import pytest
from keras import ops

from keras_mmai import diffusion

SEED = np.array([[1, 2], [3, 4], [-5, 6]], "int32")


def words(*values):
    return [ops.convert_to_tensor(np.array([v], "uint32").view("int32")) for v in values]


@pytest.mark.parametrize(
    "key, counter, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(key, counter, expected, compiled):
    for function in (diffusion.threefry_2x32, compiled(diffusion.threefry_2x32)):
        answer = function(*words(*key), *words(*counter))
        assert tuple(int(ops.convert_to_numpy(w).view("uint32")[0]) for w in answer) == expected


def test_the_same_numbers_on_every_backend():
    u, z = (ops.convert_to_numpy(draw(SEED, (3,), stream=5)) for draw in (diffusion.uniform, diffusion.normal))
    golden = [[10130041, 5349986, 6273639], [7202029, 1107831, 227136], [7844463, 10170186, 4339766]]
    np.testing.assert_array_equal(u * 2**24, golden)
    golden = [
        [-0.2362171, -0.5066159, 1.3292014],
        [0.0066277, -0.8048550, -1.2424180],
        [0.0110858, 0.3058491, 1.1134173],
    ]
    np.testing.assert_allclose(z, golden, rtol=0, atol=1e-6)


def test_moments_and_ranges():
    seed = np.arange(2000, dtype="int32").reshape(1000, 2)
    u, z = (ops.convert_to_numpy(draw(seed, (51,))) for draw in (diffusion.uniform, diffusion.normal))
    assert u.dtype == z.dtype == np.float32 and u.shape == z.shape == (1000, 51)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.015 and abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.05 and abs((z**4).mean() - 3) < 0.1
    # No correlation between rows of near seeds, between neighbours (one Box-Muller pair), or with the uniforms.
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z, u - 0.5)):
        assert abs((a * b).mean()) < 0.015


@pytest.mark.parametrize("draw", [diffusion.uniform, diffusion.normal])
def test_a_row_is_a_function_of_its_seed_and_stream(draw, compiled):
    batch = ops.convert_to_numpy(draw(SEED, (4, 3), stream=7))
    assert batch.shape == (3, 4, 3)
    alone = ops.convert_to_numpy(draw(SEED[1:2], (4, 3), stream=7))
    # Vectorised logarithms may differ in the last bit with the place in the batch.
    np.testing.assert_allclose(alone[0], batch[1], rtol=0, atol=0 if draw is diffusion.uniform else 1e-6)
    from_tensor = compiled(lambda seed, i: draw(seed, (4, 3), stream=i))(
        ops.convert_to_tensor(SEED), ops.convert_to_tensor(7, "int32")
    )
    np.testing.assert_allclose(ops.convert_to_numpy(from_tensor), batch, rtol=0, atol=1e-6)
    assert not np.isin(ops.convert_to_numpy(draw(SEED, (4, 3), stream=8)), batch).any()


def test_any_row_shape():
    for shape in ((), (1,), (2, 5, 3)):
        assert diffusion.normal(SEED, shape).shape == (3, *shape)
    longer = ops.convert_to_numpy(diffusion.uniform(SEED, (7,)))
    np.testing.assert_array_equal(ops.convert_to_numpy(diffusion.uniform(SEED, (4,))), longer[:, :4])


def test_a_seed_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"seed must be int32 of shape \(b, 2\)"):
        diffusion.normal(np.zeros(3, "int32"), (4,))
