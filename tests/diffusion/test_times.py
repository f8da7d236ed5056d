import numpy as np
import pytest
from keras import ops

from keras_mmai import diffusion

U = np.random.default_rng(0).uniform(size=20000).astype("float32")


@pytest.mark.parametrize("times", [diffusion.UniformTimes(), diffusion.LogitNormalTimes(-0.8, 0.8)], ids=repr)
def test_times_stay_inside(times):
    t = ops.convert_to_numpy(times(np.array([0.0, 0.5, 1.0 - 2.0**-24, 1.0], "float32")))
    assert t.dtype == np.float32 and (t > 0).all() and (t < 1).all() and (np.diff(t) >= 0).all()
    assert type(times).from_config(times.get_config()) == times


def test_uniform_times_are_the_uniforms():
    np.testing.assert_allclose(ops.convert_to_numpy(diffusion.UniformTimes()(U)), U, atol=1e-6)


def test_logit_normal_moments():
    t = ops.convert_to_numpy(diffusion.LogitNormalTimes(mean=-0.8, std=0.7)(U)).astype("float64")
    logit = np.log(t / (1 - t))
    assert abs(logit.mean() + 0.8) < 0.02 and abs(logit.std() - 0.7) < 0.02


def test_a_logit_mean_is_a_flow_shift():
    plain = ops.convert_to_numpy(diffusion.LogitNormalTimes()(U[:100]))
    moved = ops.convert_to_numpy(diffusion.LogitNormalTimes(mean=np.log(3.0))(U[:100]))
    np.testing.assert_allclose(moved, 3 * plain / (1 + 2 * plain), atol=1e-6)


def test_stratified_puts_one_number_in_each_stratum(compiled):
    u = ops.convert_to_numpy(compiled(diffusion.stratified)(ops.convert_to_tensor(U[:64])))
    assert u.dtype == np.float32
    np.testing.assert_array_equal(np.floor(u * 64), np.arange(64))
    np.testing.assert_allclose(u * 64 - np.arange(64), U[:64], atol=1e-5)


def test_a_std_of_zero_is_an_error():
    with pytest.raises(ValueError, match="std > 0"):
        diffusion.LogitNormalTimes(std=0.0)
