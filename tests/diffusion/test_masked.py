import numpy as np
import pytest
from keras import ops

from examples import MASKED_SAMPLERS
from keras_mmai import diffusion

K = 5
TOKENS = np.random.RandomState(0).randint(0, K, (6, 7)).astype("int32")
NOISE = np.random.RandomState(1).rand(6, 7).astype("float32")
LOGITS = np.random.RandomState(2).normal(size=(6, 7, K)).astype("float32")
T = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.99], "float32")
MASKINGS = [diffusion.FlowLinear(), diffusion.CosineMasking(), diffusion.PolynomialMasking(3.0)]
each_masking = pytest.mark.parametrize("schedule", MASKINGS, ids=repr)
numpy = ops.convert_to_numpy


class TwoBits:
    """The perfect network for two tokens of a joint distribution that is far from independent."""

    joint = np.array([[0.45, 0.05], [0.1, 0.4]], "float32")
    entropy = float(-np.sum(joint * np.log(joint)))

    def __init__(self, schedule=None):
        self.process = diffusion.MaskedDiffusion(2, schedule)

    def network(self, x_t, t):
        marginals = self.joint.sum(1), self.joint.sum(0)
        rows = []
        for token, joint in enumerate((self.joint.T, self.joint)):  # given the other one: 0, 1 or masked
            given = np.stack([joint[0] / joint[0].sum(), joint[1] / joint[1].sum(), marginals[token]])
            rows.append(ops.take(np.log(given), x_t[:, 1 - token], axis=0))
        return ops.stack(rows, axis=1)


def uniform(rows, tokens, seed=0):
    """The noise argument of a masked sampler."""
    seeds = np.stack([np.full(rows, seed), np.arange(rows)], 1).astype("int32")
    return lambda i: diffusion.uniform(seeds, (tokens, 2), stream=i)


@each_masking
def test_tokens_are_masked_as_often_as_the_schedule_says(schedule):
    process = diffusion.MaskedDiffusion(K, schedule)
    x = np.zeros((1000, 20), "int32")
    noise = np.random.RandomState(0).rand(*x.shape).astype("float32")
    for t in (0.1, 0.5, 0.9):
        x_t, target = (numpy(v) for v in process.corrupt(x, t, noise))
        np.testing.assert_allclose((x_t == K).mean(), 1 - float(numpy(schedule(t)[0])), atol=0.02)
        np.testing.assert_array_equal(target, np.where(x_t == K, x, -1))
    np.testing.assert_array_equal(numpy(process.corrupt(TOKENS, 0.0, NOISE)[0]), TOKENS)
    np.testing.assert_array_equal(numpy(process.corrupt(TOKENS, 1.0, NOISE)[0]), numpy(process.prior(NOISE)))


def test_one_time_per_example_or_token_is_the_same_rule():
    process = diffusion.MaskedDiffusion(K)
    rows = process.corrupt(TOKENS, T, NOISE)
    tokens = process.corrupt(TOKENS, np.repeat(T[:, None], 7, 1), NOISE)
    np.testing.assert_array_equal(numpy(rows[0]), numpy(tokens[0]))
    losses = [numpy(process.loss(LOGITS, rows[1], t)) for t in (T, np.repeat(T[:, None], 7, 1))]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_loss_is_mdlms_definition(eps, compiled):
    """Their noise is sigma, with alpha = exp(-sigma), and the weight d sigma / expm1(sigma); eps keeps it finite."""
    t = T.astype("float64")
    sigma, d_sigma = -np.log1p(-(1 - eps) * t), (1 - eps) / (1 - (1 - eps) * t)
    masked = (1 - np.exp(-sigma))[:, None] > NOISE
    log_p = LOGITS - np.log(np.exp(LOGITS.astype("float64")).sum(-1, keepdims=True))
    log_p = np.take_along_axis(log_p, TOKENS[..., None].astype(int), -1)[..., 0]
    expected = np.mean(-(d_sigma / np.expm1(sigma))[:, None] * log_p * masked, axis=1)

    process = diffusion.MaskedDiffusion(K)
    _, target = process.corrupt(TOKENS, ((1 - eps) * t).astype("float32"), NOISE)
    loss = compiled(process.loss)(ops.convert_to_tensor(LOGITS), target, ops.convert_to_tensor(T))
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


@each_masking
def test_bound_is_tight_for_the_perfect_network(schedule):
    model = TwoBits(schedule)
    n = 40_000
    random = np.random.RandomState(0)
    pairs = random.choice(4, n, p=model.joint.ravel())
    x = np.stack([pairs // 2, pairs % 2], 1).astype("int32")
    t = numpy(model.process.times(diffusion.stratified(random.rand(n).astype("float32"))))
    x_t, target = model.process.corrupt(x, t, random.rand(n, 2).astype("float32"))
    losses = 2 * numpy(model.process.loss(model.network(x_t, t), target, t))
    error = losses.std() / np.sqrt(n)
    assert error < 0.03
    np.testing.assert_allclose(losses.mean(), model.entropy, atol=4 * error)


def test_clear_tokens_stay_and_masks_are_never_predicted():
    process = diffusion.MaskedDiffusion(K)
    x_t, _ = process.corrupt(TOKENS, 0.5, NOISE)
    p = numpy(process.split(LOGITS, x_t))
    clear = numpy(x_t) < K
    np.testing.assert_array_equal(p[clear], np.eye(K)[TOKENS[clear]])
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    assert p.shape == (6, 7, K)


@each_masking
@pytest.mark.parametrize(
    "sampler",
    [diffusion.MaskedAncestral(), diffusion.MaskedAncestral(remasking=0.2), diffusion.MaskGIT(randomness=100.0)],
    ids=repr,
)
def test_samples_follow_the_distribution(sampler, schedule, compiled):
    """MaskGIT too, where the order is left to chance."""
    model, n = TwoBits(schedule), 8000
    noise = uniform(n, 2)
    run = compiled(lambda x, times: sampler(model.process.denoiser(model.network), x, times, noise))
    start = model.process.prior(np.zeros((n, 2)))
    x = numpy(run(start, ops.convert_to_tensor(diffusion.uniform_times(40))))
    found = np.bincount(2 * x[:, 0] + x[:, 1], minlength=4) / n
    np.testing.assert_allclose(found, model.joint.ravel(), atol=0.025)


@each_masking
@pytest.mark.parametrize("sampler", MASKED_SAMPLERS, ids=repr)
@pytest.mark.parametrize("shape", [(7,), (3, 2)])
def test_every_mask_is_uncovered_and_rows_do_not_mix(sampler, schedule, shape):
    process = diffusion.MaskedDiffusion(K, schedule)
    seeds = np.arange(12, dtype="int32").reshape(6, 2)
    logits = LOGITS[:, : np.prod(shape)].reshape(6, *shape, K)

    def run(rows):
        network = process.denoiser(lambda x, t: ops.convert_to_tensor(logits[rows]))
        x = process.prior(np.zeros((len(rows), *shape)))
        noise = lambda i: diffusion.uniform(seeds[rows], (*shape, 2), stream=i)  # noqa: E731
        return numpy(sampler(network, x, diffusion.uniform_times(5), noise))

    x = run([0, 1, 2, 3, 4, 5])
    assert x.dtype == np.int32 and x.min() >= 0 and x.max() < K
    np.testing.assert_array_equal(run([4, 1]), x[[4, 1]])


@each_masking
@pytest.mark.parametrize("sampler", MASKED_SAMPLERS, ids=repr)
@pytest.mark.parametrize("t", [1e-9, 1e-3, 1.0])
def test_the_last_step_leaves_no_mask(sampler, schedule, t):
    """Also where the schedule says that hardly any is left."""
    process = diffusion.MaskedDiffusion(K, schedule)
    predict = process.denoiser(lambda x, t: ops.zeros((*x.shape, K)))
    start = ops.convert_to_tensor(process.prior(np.zeros((1, 2000))))
    x = numpy(sampler.step(predict, start, np.float32(t), np.float32(0.0), uniform(1, 2000)(0)))
    assert x.max() < K


@each_masking
def test_maskgit_keeps_the_share_of_the_schedule_and_takes_the_surest(schedule):
    process = diffusion.MaskedDiffusion(K, schedule)
    sure = np.linspace(0, 8, 16).astype("float32")  # of the later tokens the network is surer
    logits = np.stack([sure, *[np.zeros(16, "float32")] * (K - 1)], -1)[None]
    network = process.denoiser(lambda x, t: ops.convert_to_tensor(logits))
    states = diffusion.MaskGIT(temperature=1e-3, randomness=0.0).trajectory(
        network, process.prior(np.zeros((1, 16))), diffusion.uniform_times(8), uniform(1, 16)
    )
    masked = numpy(states)[:, 0] == K
    shares = 1 - numpy(schedule(diffusion.uniform_times(8))[0])
    assert np.all(np.abs(masked.mean(1) - shares) < 2 / 16) and masked[0].all() and not masked[-1].any()
    assert all((np.diff(row.astype(int)) <= 0).all() for row in masked)  # masks are left at the front


def test_clear_tokens_are_masked_again_only_by_remasking():
    process = diffusion.MaskedDiffusion(K)
    network = process.denoiser(lambda x, t: ops.zeros((*x.shape, K)))
    x = np.zeros((1, 4000), "int32")
    step = dict(t=np.float32(0.6), s=np.float32(0.5), noise=uniform(1, 4000)(0))
    kept = numpy(diffusion.MaskedAncestral().step(network, ops.convert_to_tensor(x), **step))
    again = numpy(diffusion.MaskedAncestral(remasking=0.3).step(network, ops.convert_to_tensor(x), **step))
    assert (kept == 0).all()
    np.testing.assert_allclose((again == K).mean(), 0.3, atol=0.03)


@pytest.mark.parametrize("sampler", [diffusion.MaskedAncestral, diffusion.MaskGIT])
def test_top_p_and_temperature_leave_out_what_is_unlikely(sampler):
    process = diffusion.MaskedDiffusion(4)
    logits = np.log(np.array([0.4, 0.05, 0.3, 0.25], "float32"))
    network = process.denoiser(lambda x, t: ops.broadcast_to(logits, (*x.shape, 4)))
    start = process.prior(np.zeros((1, 2000)))

    def found(**kwargs):
        x = numpy(sampler(**kwargs)(network, start, diffusion.uniform_times(1), uniform(1, 2000)))
        return np.bincount(x[0], minlength=4) / 2000

    np.testing.assert_allclose(found(), np.exp(logits), atol=0.04)
    np.testing.assert_allclose(found(top_p=0.6), [4 / 7, 0, 3 / 7, 0], atol=0.04)
    np.testing.assert_allclose(found(temperature=0.01), [1, 0, 0, 0])
    squares = np.exp(2 * logits) / np.exp(2 * logits).sum()
    np.testing.assert_allclose(found(temperature=0.5), squares, atol=0.04)


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: diffusion.MaskedDiffusion(0), "vocabulary"),
        (lambda: diffusion.MaskedAncestral(temperature=0.0), "temperature"),
        (lambda: diffusion.MaskGIT(top_p=1.5), "top_p"),
        (lambda: diffusion.MaskedAncestral(remasking=2.0), "remasking"),
        (lambda: diffusion.MaskGIT(randomness=-1.0), "randomness"),
        (lambda: diffusion.MaskGIT(randomness=float("nan")), "randomness"),
        (lambda: diffusion.MaskedAncestral(temperature=float("inf")), "temperature"),
        (lambda: diffusion.PolynomialMasking(float("nan")), "power"),
    ],
)
def test_numbers_out_of_range(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_noise_of_another_shape_is_not_broadcast():
    with pytest.raises(ValueError, match=r"tokens x and their noise must have the same shape. Received: \(4, 4\) and"):
        diffusion.MaskedDiffusion(K).corrupt(np.zeros((4, 4), "int32"), 0.5, np.zeros(4, "float32"))


def test_a_polynomial_masks_a_power_of_t():
    alpha, sigma = diffusion.PolynomialMasking(3.0)(0.5)
    np.testing.assert_allclose([float(alpha), float(sigma)], [0.875, 0.125])
    with pytest.raises(ValueError, match="`power` must be finite and at least 1"):
        diffusion.PolynomialMasking(0.5)
