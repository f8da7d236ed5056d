import numpy as np
import pytest
from keras import ops

from examples import GAUSSIAN_SCHEDULES
from keras_mmai import diffusion

PREDICTIONS = ["data", "noise", "velocity", "v"]
X, NOISE = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
T = np.array([0.02, 0.25, 0.5, 0.75, 0.98], "float32")


@pytest.mark.parametrize("schedule", GAUSSIAN_SCHEDULES, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_split_undoes_corrupt(prediction, schedule, compiled):
    process = diffusion.GaussianDiffusion(schedule, prediction)
    x_t, target = process.corrupt(X, T, NOISE)
    x_hat, eps_hat = compiled(process.split)(target, x_t, ops.convert_to_tensor(T))
    np.testing.assert_allclose(ops.convert_to_numpy(x_hat), X, atol=3e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(eps_hat), NOISE, atol=3e-4)


def test_targets_on_straight_paths():
    x_t, velocity = diffusion.GaussianDiffusion().corrupt(X, 0.25, NOISE)
    np.testing.assert_allclose(ops.convert_to_numpy(x_t), 0.75 * X + 0.25 * NOISE, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(velocity), NOISE - X, atol=1e-6)


def test_q_sample_is_that_of_the_reference(diffusion_fixtures):
    reference = diffusion_fixtures("c3_ops")
    process = diffusion.GaussianDiffusion(diffusion.VPLinear(), "noise")
    t = ((reference["t"] + 1) / 1000).astype("float32")
    x_t, target = process.corrupt(reference["x_start"], t, reference["noise"])
    np.testing.assert_allclose(ops.convert_to_numpy(x_t), reference["q_sample"], atol=2e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(target), reference["noise"])


def test_one_time_per_example_or_token_or_batch_is_the_same_rule():
    process = diffusion.GaussianDiffusion()
    whole, _ = process.corrupt(X, np.float32(0.25), NOISE)
    rows, _ = process.corrupt(X, np.full(5, 0.25, "float32"), NOISE)
    tokens, _ = process.corrupt(X, np.full((5, 4), 0.25, "float32"), NOISE)
    np.testing.assert_array_equal(ops.convert_to_numpy(whole), ops.convert_to_numpy(rows))
    np.testing.assert_array_equal(ops.convert_to_numpy(whole), ops.convert_to_numpy(tokens))


@pytest.mark.parametrize("prediction, t", [("noise", 1.0), ("data", 0.0)])
def test_where_one_unknown_is_not_told_it_is_its_mean(prediction, t):
    process = diffusion.GaussianDiffusion(diffusion.FlowLinear(), prediction)
    known = NOISE if prediction == "noise" else X
    estimates = [ops.convert_to_numpy(estimate) for estimate in process.split(known + 0.02, known, t)]
    told, untold = reversed(estimates) if prediction == "noise" else estimates
    np.testing.assert_allclose(told, known + 0.01, atol=1e-6)  # told twice, with errors of .02 and 0
    np.testing.assert_array_equal(untold, 0 * untold)


@pytest.mark.parametrize("schedule", GAUSSIAN_SCHEDULES, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_split_is_bounded_at_the_ends(prediction, schedule):
    process = diffusion.GaussianDiffusion(schedule, prediction)
    for t in (0.0, 1.0):
        for estimate in process.split(NOISE, X, t):
            assert np.abs(ops.convert_to_numpy(estimate)).max() < 500 * np.abs([X, NOISE]).max()


def test_loss_is_the_mean_square_per_example():
    loss = diffusion.GaussianDiffusion().loss(ops.cast(X, "bfloat16"), NOISE, T)
    assert loss.shape == (5,)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), ((X - NOISE) ** 2).mean((1, 2)), rtol=1e-2)


def test_prior_is_the_noise_at_the_end():
    np.testing.assert_array_equal(ops.convert_to_numpy(diffusion.GaussianDiffusion().prior(NOISE)), NOISE)


def test_denoiser_gives_the_network_one_time_per_example():
    seen = []

    def network(x_t, t):
        seen.append(tuple(t.shape))
        return x_t

    predict = diffusion.GaussianDiffusion().denoiser(network)
    predict(X, 0.5), predict(X, T)
    assert seen == [(5,), (5,)]
    assert predict.schedule == diffusion.FlowLinear()


def test_config_round_trip():
    process = diffusion.GaussianDiffusion(diffusion.VPCosine(500), "v", diffusion.UniformTimes())
    assert diffusion.GaussianDiffusion.from_config(process.get_config()) == process
    assert diffusion.GaussianDiffusion() == diffusion.GaussianDiffusion(diffusion.FlowLinear(), "velocity")


def test_errors_teach():
    with pytest.raises(ValueError, match=r"one of .*'data', 'noise', 'v', 'velocity'.* Received: 'epsilon'"):
        diffusion.GaussianDiffusion(prediction="epsilon")
    process = diffusion.GaussianDiffusion()
    with pytest.raises(ValueError, match=r"data x and its noise must have the same shape. Received: \(5, 4, 3\) and"):
        process.corrupt(X, T, NOISE[..., :2])
    with pytest.raises(ValueError, match=r"output and x_t must have the same shape"):
        process.split(np.concatenate([X, X], -1), X, T)
