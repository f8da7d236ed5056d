import numpy as np
import pytest
from keras import ops

from examples import SCHEDULES
from keras_mmai import diffusion

CHAINS = {"linear": diffusion.linear_betas, "squaredcos_cap_v2": diffusion.cosine_betas}
CONTINUOUS = {diffusion.VPLinear: diffusion.linear_betas, diffusion.VPCosine: diffusion.cosine_betas}


def numpy(*tensors):
    return [np.asarray(ops.convert_to_numpy(x), "float64") for x in tensors]


@pytest.mark.parametrize("name", CHAINS)
def test_tables_are_those_of_the_reference(name, diffusion_fixtures):
    reference = {
        key.split("/")[1]: value for key, value in diffusion_fixtures("c1_schedules").items() if key.startswith(name)
    }
    tables = diffusion.gaussian_tables(CHAINS[name]())
    assert tables.keys() == reference.keys()
    for key, value in reference.items():
        np.testing.assert_allclose(tables[key], value, rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("spec", ["250", "50", "ddim25", "ddim50", "10,10,10", "1000", "1", "7"])
def test_respacing_is_that_of_the_reference(spec, diffusion_fixtures):
    reference = diffusion_fixtures("c2_spaced")
    kept, betas = diffusion.respace(diffusion.linear_betas(), spec)
    tables = {"timestep_map": kept, **diffusion.gaussian_tables(betas)}
    prefix = spec.replace(",", "_") + "/"
    names = [key.removeprefix(prefix) for key in reference if key.startswith(prefix)]
    assert "timestep_map" in names
    for name in names:
        np.testing.assert_allclose(tables[name], reference[prefix + name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("spec", ["0", "2000", "500,501", "ddim600", "10,0"])
def test_an_impossible_respacing_is_an_error(spec):
    with pytest.raises(ValueError, match=r"cannot keep|No integer stride"):
        diffusion.timestep_map(spec, 1000)


def test_a_linear_chain_too_short_for_its_betas_is_an_error():
    with pytest.raises(ValueError, match="num_steps > 20"):
        diffusion.VPLinear(20)


def test_times_fall_from_one_to_zero(diffusion_fixtures):
    np.testing.assert_allclose(diffusion.uniform_times(4), [1, 0.75, 0.5, 0.25, 0])
    shifted = diffusion.uniform_times(50, shift=3.0)
    assert shifted.dtype == np.float32 and shifted.shape == (51,)
    assert shifted[0] == 1 and shifted[-1] == 0 and (np.diff(shifted) < 0).all()
    reference = diffusion_fixtures("j_weights_and_time_maps")
    u = reference["u"]
    np.testing.assert_allclose(3 * u / (1 + 2 * u), reference["shift3"])
    np.testing.assert_allclose(np.interp(u, np.linspace(0, 1, 51), shifted[::-1]), reference["shift3"], atol=2e-3)


def test_respaced_times_are_the_kept_steps_and_the_data():
    times = diffusion.respaced_times("ddim25")
    assert times.dtype == np.float32 and times.shape == (26,)
    np.testing.assert_allclose(times[[0, -2, -1]], [0.961, 0.001, 0.0])


@pytest.mark.parametrize("num_steps", [1000, 100])
@pytest.mark.parametrize("schedule", CONTINUOUS)
def test_a_continuous_chain_passes_through_its_table(schedule, num_steps):
    table = diffusion.gaussian_tables(CONTINUOUS[schedule](num_steps))
    t = (np.arange(num_steps) + 1) / num_steps
    alpha, sigma = numpy(*schedule(num_steps)(t.astype("float32")))
    np.testing.assert_allclose(sigma, table["sqrt_one_minus_alphas_cumprod"], rtol=2e-5)
    # The cosine chain ends in a step with beta = .999, where rounding t to float32 counts 1000 times more.
    np.testing.assert_allclose(alpha, table["sqrt_alphas_cumprod"], rtol=2e-5 if t[-1] < 1 else 5e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedule_ends_and_monotone_snr(schedule):
    t = np.linspace(0, 1, 4001, dtype="float32")
    alpha, sigma = numpy(*schedule(t))
    assert alpha.shape == sigma.shape == t.shape
    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] < 0.01 and sigma[-1] > 0.9999
    with np.errstate(divide="ignore"):
        assert (np.diff(np.log(alpha) - np.log(sigma)) < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_derivative_is_the_slope(schedule):
    # Between knots, where the interpolation has one slope on both sides; h is exact in float32.
    t = np.array([0.0125, 0.1005, 0.2505, 0.5005, 0.7505, 0.9005, 0.9505], "float32")
    h = np.float32(2.0**-12)
    (alpha_up, sigma_up), (alpha_down, sigma_down) = numpy(*schedule(t + h)), numpy(*schedule(t - h))
    d_alpha, d_sigma = numpy(*schedule.derivative(t))
    np.testing.assert_allclose((alpha_up - alpha_down) / (2 * h), d_alpha, rtol=2e-3, atol=5e-4)
    np.testing.assert_allclose((sigma_up - sigma_down) / (2 * h), d_sigma, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_nothing_is_infinite_on_the_closed_interval(schedule):
    t = np.array([0.0, 1e-8, 0.5, 1.0], "float32")
    for value in numpy(*schedule(t), *schedule.derivative(t), *schedule(0.0), *schedule.derivative(1.0)):
        assert np.isfinite(value).all()
