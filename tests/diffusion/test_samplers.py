import keras
import numpy as np
import pytest
from keras import ops

from examples import DETERMINISTIC, SAMPLERS, SCHEDULES
from keras_mmai import diffusion

VP = diffusion.VPLinear()
X_1 = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")


def fresh(rows, width):
    """The noise argument of a sampler on x (rows, width): step index -> noise."""
    seed = np.arange(2 * rows, dtype="int32").reshape(rows, 2)
    return lambda i: diffusion.normal(seed, (width,), stream=i)


def errors(sampler, model, steps, compiled):
    """Largest distance from the exact end of the ODE, for every number of steps."""
    run = compiled(lambda x, times: sampler(model.denoiser, x, times))
    ends = [run(ops.convert_to_tensor(X_1), ops.convert_to_tensor(diffusion.uniform_times(n))) for n in steps]
    return [np.abs(ops.convert_to_numpy(x_0) - model.end(X_1)).max() for x_0 in ends]


@pytest.mark.parametrize("spec", ["20", "ddim20"])
def test_ddim_is_that_of_the_reference(spec, diffusion_fixtures, gaussian_model):
    reference = diffusion_fixtures("c4_loops")
    model = gaussian_model(diffusion.GaussianDiffusion(VP, "noise"), float(reference["mu"]), float(reference["s"]))
    states = diffusion.DDIM().trajectory(model.denoiser, reference["x_T"], diffusion.respaced_times(spec))
    np.testing.assert_allclose(ops.convert_to_numpy(states)[1:], reference[f"{spec}/ddim_traj"], atol=1e-4)


def test_ddim_in_250_steps_is_that_of_the_reference(diffusion_fixtures, gaussian_model, compiled):
    reference = diffusion_fixtures("c4_loops")
    model = gaussian_model(diffusion.GaussianDiffusion(VP, "noise"), float(reference["mu"]), float(reference["s"]))
    times = ops.convert_to_tensor(diffusion.respaced_times("250"))
    x_0 = compiled(lambda x: diffusion.DDIM()(model.denoiser, x, times))(ops.convert_to_tensor(reference["x_T"]))
    np.testing.assert_allclose(ops.convert_to_numpy(x_0), reference["250/ddim_traj"][-1], atol=1e-4)


@pytest.mark.parametrize("spec", ["20", "ddim20"])
def test_ddpm_is_that_of_the_reference(spec, diffusion_fixtures, gaussian_model):
    """The reference learns its variance, log-linear between beta and the posterior's (fraction (0.25 + 1) / 2).

    The mean does not depend on it, so its noise scaled by the ratio of the deviations gives the same trajectory.
    """
    reference = diffusion_fixtures("c4_loops")
    model = gaussian_model(diffusion.GaussianDiffusion(VP, "noise"), float(reference["mu"]), float(reference["s"]))
    tables = diffusion.gaussian_tables(diffusion.respace(diffusion.linear_betas(), spec)[1])
    fraction = (float(reference["var_value"]) + 1) / 2
    ratio = np.exp(fraction * (np.log(tables["betas"]) - tables["posterior_log_variance_clipped"]) / 2)[::-1]
    noises = (reference[f"{spec}/noises"] * ratio[:, None, None, None, None]).astype("float32")
    states = diffusion.Ancestral().trajectory(
        model.denoiser, reference["x_T"], diffusion.respaced_times(spec), lambda i: ops.take(noises, i, axis=0)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(states)[1:], reference[f"{spec}/ddpm_traj"], atol=1e-4)


def test_ancestral_is_the_posterior_of_the_tables():
    tables = diffusion.gaussian_tables(diffusion.linear_betas())
    predict = diffusion.GaussianDiffusion(VP, "data").denoiser(lambda x_t, t: ops.full_like(x_t, 0.7))
    for i in (1, 10, 300, 999):
        step = [
            ops.convert_to_numpy(
                diffusion.Ancestral().step(predict, X_1, np.float32((i + 1) / 1000), np.float32(i / 1000), noise)
            )
            for noise in (ops.zeros_like(X_1), ops.ones_like(X_1))
        ]
        mean = tables["posterior_mean_coef1"][i] * 0.7 + tables["posterior_mean_coef2"][i] * X_1
        np.testing.assert_allclose(step[0], mean, atol=1e-4)
        np.testing.assert_allclose(step[1] - step[0], np.sqrt(tables["posterior_variance"][i]), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_ddim_step_is_that_of_the_reference(eta, diffusion_fixtures):
    reference = diffusion_fixtures("c3_ops")
    predict = diffusion.GaussianDiffusion(VP, "noise").denoiser(lambda x_t, t: output[None])
    for row, i in enumerate(reference["t"]):
        output = ops.convert_to_tensor(reference["model_output"][row, : reference["x_start"].shape[1]])
        x_t, noise = (ops.convert_to_tensor(reference[name][row : row + 1]) for name in ("q_sample", "step_noise"))
        x_s = diffusion.Ancestral(eta).step(predict, x_t, np.float32((i + 1) / 1000), np.float32(i / 1000), noise)
        expected = reference[f"learned_mse/clip0/ddim_eta{eta}"][row : row + 1]
        np.testing.assert_allclose(ops.convert_to_numpy(x_s), expected, atol=1e-4, rtol=1e-4)


def test_flow_euler_is_that_of_the_reference(diffusion_fixtures, gaussian_model):
    reference = diffusion_fixtures("f_schedulers")
    model = gaussian_model(diffusion.GaussianDiffusion(), float(reference["mu"]), float(reference["s"]))
    for name in ("flow_euler_shift1", "flow_euler_shift3"):
        times = reference[f"{name}/sigmas"].astype("float32")
        states = diffusion.Euler().trajectory(model.denoiser, reference["x_T"], times)
        np.testing.assert_allclose(ops.convert_to_numpy(states)[1:], reference[f"{name}/traj"], atol=1e-4)


def test_flow_heun_is_that_of_the_reference(diffusion_fixtures, gaussian_model):
    reference = diffusion_fixtures("f_schedulers")
    model = gaussian_model(diffusion.GaussianDiffusion(), float(reference["mu"]), float(reference["s"]))
    # The reference keeps both evaluations of a step: a whole step ends at every second entry, and at the last.
    times = np.append(reference["flow_heun_shift1/sigmas"][0:-1:2], 0.0).astype("float32")
    whole = np.append(np.arange(1, 39, 2), 38)
    states = diffusion.Heun().trajectory(model.denoiser, reference["x_T"], times)
    np.testing.assert_allclose(ops.convert_to_numpy(states)[1:], reference["flow_heun_shift1/traj"][whole], atol=1e-4)


@pytest.mark.parametrize(
    "sampler, order", [(diffusion.Euler(), 1), (diffusion.DDIM(), 1), (diffusion.Heun(), 2)], ids=repr
)
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_order_of_convergence(sampler, order, prediction, gaussian_model, compiled):
    model = gaussian_model(diffusion.GaussianDiffusion(prediction=prediction))
    steps = np.array([16, 32, 64, 128])
    measured = errors(sampler, model, steps, compiled)
    slope, _ = np.polyfit(np.log(1 / steps), np.log(measured), 1)
    assert abs(slope - order) < 0.25, (slope, measured)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_ode_ends_at_its_exact_solution(sampler, schedule, gaussian_model, compiled):
    model = gaussian_model(diffusion.GaussianDiffusion(schedule, "v"))
    coarse, fine = errors(sampler, model, (25, 200), compiled)
    assert fine < 0.03 and fine < coarse / 3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity", "v"])
def test_a_network_that_errs_a_little_errs_a_little_in_the_end(prediction, schedule, sampler, gaussian_model):
    """No prediction divides the network's error by nothing, not even at the ends."""
    model = gaussian_model(diffusion.GaussianDiffusion(schedule, prediction))
    error = ops.convert_to_tensor(0.02 * np.random.default_rng(2).normal(size=X_1.shape), "float32")
    predict = model.process.denoiser(lambda x_t, t: model.network(x_t, t) + error)
    exact, wrong = (sampler(p, X_1, diffusion.uniform_times(20)) for p in (model.denoiser, predict))
    assert np.abs(ops.convert_to_numpy(wrong) - ops.convert_to_numpy(exact)).max() < 0.5


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_deterministic_samplers_invert(sampler, schedule, gaussian_model, compiled):
    x = np.linspace(-1, 1.5, 12, dtype="float32").reshape(2, 6)
    predict = gaussian_model(diffusion.GaussianDiffusion(schedule)).denoiser
    there_and_back = compiled(lambda x, times: sampler(predict, sampler(predict, x, ops.flip(times)), times))
    lost = []
    for num_steps in (8, 24, 72):
        back = there_and_back(ops.convert_to_tensor(x), ops.convert_to_tensor(diffusion.uniform_times(num_steps)))
        lost.append(np.abs(ops.convert_to_numpy(back) - x).max())
    assert lost[0] > 1.8 * lost[1] > 3.2 * lost[2] and lost[2] < 0.12


@pytest.mark.parametrize("schedule", [diffusion.FlowLinear(), VP], ids=repr)
def test_ancestral_sampling_tends_to_the_data(schedule, gaussian_model, compiled):
    """Its steps are narrower than the exact ones by what x_hat leaves open: an error of first order in the spread."""
    process = diffusion.GaussianDiffusion(schedule)
    model = gaussian_model(process)
    noise = fresh(512, 16)
    run = compiled(lambda x, times: diffusion.Ancestral()(model.denoiser, x, times, noise))
    too_narrow = []
    for num_steps in (15, 60):
        x_1 = process.prior(noise(num_steps))
        x_0 = ops.convert_to_numpy(run(x_1, ops.convert_to_tensor(diffusion.uniform_times(num_steps))))
        assert abs(x_0.mean() - model.mean) < 0.02
        too_narrow.append(model.std - x_0.std())
    assert too_narrow[0] > 2.5 * too_narrow[1] and abs(too_narrow[1]) < 0.06


def test_eta_zero_is_ddim_and_on_straight_paths_ddim_is_euler(gaussian_model):
    predict = gaussian_model(diffusion.GaussianDiffusion()).denoiser
    times = diffusion.uniform_times(10, shift=2.0)
    ddim = ops.convert_to_numpy(diffusion.DDIM()(predict, X_1, times))
    for other in (diffusion.Ancestral(eta=0.0), diffusion.Euler()):
        np.testing.assert_allclose(ops.convert_to_numpy(other(predict, X_1, times)), ddim, atol=2e-6)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_compiled_loop_is_the_trajectory(sampler, gaussian_model, compiled):
    predict = gaussian_model(diffusion.GaussianDiffusion(VP, "noise")).denoiser
    noise = fresh(4, 6)
    run = compiled(lambda x, times: sampler(predict, x, times, noise))
    for shift in (1.0, 3.0):
        times = diffusion.uniform_times(6, shift)
        states = ops.convert_to_numpy(sampler.trajectory(predict, X_1, times, noise))
        assert states.shape == (7, 4, 6)
        x_0 = run(ops.convert_to_tensor(X_1), ops.convert_to_tensor(times))
        np.testing.assert_allclose(ops.convert_to_numpy(x_0), states[-1], atol=2e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="lax.cond traces both branches, then runs one")
def test_heun_never_looks_at_the_data_end():
    seen = []
    predict = diffusion.GaussianDiffusion().denoiser(lambda x_t, t: seen.append(float(t[0])) or x_t)
    diffusion.Heun().trajectory(predict, X_1, diffusion.uniform_times(4))
    assert len(seen) == 7 and min(seen) == 0.25


def test_errors_teach(gaussian_model):
    predict = gaussian_model(diffusion.GaussianDiffusion()).denoiser
    with pytest.raises(ValueError, match=r"Ancestral\(eta=1.0\) draws noise at every step: pass noise="):
        diffusion.Ancestral()(predict, X_1, diffusion.uniform_times(4))
    for times in (np.ones(1, "float32"), np.ones((2, 3), "float32")):
        with pytest.raises(ValueError, match="at least 2 points"):
            diffusion.Euler()(predict, X_1, times)
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\]. Received: 2"):
        diffusion.Ancestral(eta=2)
