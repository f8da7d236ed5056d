"""Masked diffusion of discrete tokens (Sahoo et al. 2024, arXiv:2406.07524; Shi et al. 2024, arXiv:2406.04329).

A token is clear with probability alpha(t), and the mask `vocabulary`, one id more than there are, with 1 - alpha(t),

    q(x_t = x) = alpha(t),   q(x_t = mask) = 1 - alpha(t).                                              (5)

The network gives logits over the vocabulary. A clear token stays as it is, and no token is predicted to be a mask
(SUBS, Sahoo et al., section 3.2.3). The negative log-likelihood is then bounded by

    -log p(x) <= E_t [ w(t) sum over masked tokens of -log p(x | x_t) ],   w = -(d alpha/dt) / (1 - alpha),  (6)

1 / t on `FlowLinear`, and a masked token is uncovered between t and s < t with probability
(alpha_s - alpha_t) / (1 - alpha_t).
"""

import math

from keras import ops

from keras_mmai.diffusion.process import Denoiser, check_same_shape
from keras_mmai.diffusion.samplers import Sampler
from keras_mmai.diffusion.schedules import FlowLinear, Schedule, expand_right
from keras_mmai.diffusion.times import UniformTimes
from keras_mmai.serialization import Configurable, register

_SMALLEST = 1e-6  # share of masked tokens: nothing is divided by less


@register
class CosineMasking(Schedule):
    """Masks sin(pi t / 2) of the tokens, so that few are uncovered in the first steps (Chang et al. 2022, MaskGIT,
    section 3.3, where r = 1 - t)."""

    def __call__(self, t):
        sigma = ops.sin(math.pi / 2 * ops.convert_to_tensor(t, "float32"))
        return 1 - sigma, sigma

    def derivative(self, t):
        slope = math.pi / 2 * ops.cos(math.pi / 2 * ops.convert_to_tensor(t, "float32"))
        return -slope, slope


@register
class PolynomialMasking(Schedule):
    """Masks t^power of the tokens (Shi et al. 2024, arXiv:2406.04329, table 1).

    Above 1, most are uncovered while t is still high: in a model of several modalities, at one t of all, a word is then
    settled before the image that it names.

    Args:
        power: float, at least 1.

    Raises:
        ValueError: on another power.
    """

    def __init__(self, power=1.0):
        if not 1 <= power < math.inf:
            raise ValueError(f"`power` must be finite and at least 1. Received: {power}")
        self.power = power

    def __call__(self, t):
        sigma = ops.power(ops.convert_to_tensor(t, "float32"), self.power)
        return 1 - sigma, sigma

    def derivative(self, t):
        slope = self.power * ops.power(ops.convert_to_tensor(t, "float32"), self.power - 1)
        return -slope, slope


@register
class MaskedDiffusion(Configurable):
    """Tokens to masks and what a network learns of it: equations (5) and (6).

    Tokens are int32 (b, ...) in 0..vocabulary-1, and `vocabulary` is the mask; t is float32 in [0, 1], 0 = data and
    1 = all masked: a scalar, (b,), or any leading axes of the tokens.

    Args:
        vocabulary: int, the number of different tokens.
        schedule: a `Schedule`, of which alpha is the share of clear tokens; None is `FlowLinear()`, the linear one.
            `CosineMasking()` and `PolynomialMasking(power)` are others in use.
        times: the `Times` trained on; `UniformTimes()` when None, by which the loss is the bound of equation (6).

    Raises:
        ValueError: on a vocabulary below 1.
    """

    def __init__(self, vocabulary, schedule=None, times=None):
        if vocabulary < 1:
            raise ValueError(f"`vocabulary` is the number of different tokens. Received: {vocabulary}")
        self.vocabulary = vocabulary
        self.schedule = FlowLinear() if schedule is None else schedule
        self.times = UniformTimes() if times is None else times

    def prior(self, noise):
        """Masks of the shape of `noise` (b, ...): int32, where sampling starts."""
        return ops.full_like(ops.cast(noise, "int32"), self.vocabulary)

    def corrupt(self, x, t, noise):
        """Tokens x (b, ...), t, noise uniform in [0, 1) (b, ...) -> x_t (b, ...) and the target (b, ...), int32.

        The target of a token that is not masked is -1: there is nothing to learn of it.
        """
        x, noise = ops.cast(x, "int32"), ops.cast(noise, "float32")
        check_same_shape("The tokens x and their noise", x, noise)
        _, masked_share = self._shares(t, x)
        masked = noise < masked_share
        return ops.where(masked, self.vocabulary, x), ops.where(masked, x, -1)

    def token_losses(self, output, target, t):
        """The terms of equation (6): logits (b, ..., vocabulary), target (b, ...), t -> float32 (b, ...), in nats."""
        masked = target >= 0
        log_p = ops.log_softmax(ops.cast(output, "float32"), axis=-1)
        log_p = ops.take_along_axis(log_p, ops.where(masked, target, 0)[..., None], axis=-1)[..., 0]
        return ops.where(masked, -self._weight(t, log_p) * log_p, 0.0)

    def loss(self, output, target, t):
        """The mean of `token_losses` per example, in nats per token: -> (b,)."""
        losses = self.token_losses(output, target, t)
        return ops.mean(losses, axis=tuple(range(1, len(losses.shape))))

    def split(self, output, x_t, t=None):
        """Logits (b, ..., vocabulary), x_t (b, ...) -> probabilities of the data (b, ..., vocabulary): SUBS."""
        known = ops.cast(x_t[..., None] == ops.arange(self.vocabulary, dtype="int32"), "float32")  # no mask is one
        masked = ops.cast(x_t == self.vocabulary, "float32")[..., None]
        return known + masked * ops.softmax(ops.cast(output, "float32"), axis=-1)

    def denoiser(self, network):
        """What a sampler calls: `network` (x_t (b, ...), t (b,)) -> logits (b, ..., vocabulary) as a `Denoiser`."""
        return Denoiser(self, network)

    def _shares(self, t, x):
        """alpha and 1 - alpha, broadcast over x."""
        alpha, _ = self.schedule(ops.convert_to_tensor(t, "float32"))
        alpha = expand_right(alpha, x)
        return alpha, 1 - alpha

    def _weight(self, t, x):
        d_alpha, _ = self.schedule.derivative(ops.convert_to_tensor(t, "float32"))
        return -expand_right(d_alpha, x) / ops.maximum(self._shares(t, x)[1], _SMALLEST)


class MaskedSampler(Sampler):
    """Base of the samplers of tokens. Their noise is uniform in [0, 1): (b, ..., 2), two numbers for each token.

    Args:
        temperature: above 0; the logits are divided by it.
        top_p: in (0, 1]: tokens are drawn from the likeliest ones, of this probability together (Holtzman et al. 2019).

    Raises:
        ValueError: on a temperature or `top_p` out of range.
    """

    stochastic = True
    dtype = "int32"

    def __init__(self, temperature=1.0, top_p=1.0):
        if not 0 < temperature < math.inf:
            raise ValueError(f"`temperature` must be positive and finite. Received: {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"`top_p` must be in (0, 1]. Received: {top_p}")
        self.temperature = temperature
        self.top_p = top_p

    def _draw(self, probabilities, noise):
        """Tokens (b, ...) from probabilities (b, ..., vocabulary), and how likely they are, by noise (b, ...)."""
        p = probabilities
        if self.temperature != 1:
            p = ops.softmax(ops.log(p + 1e-30) / self.temperature, axis=-1)
        if self.top_p < 1:
            ordered = ops.flip(ops.sort(p, axis=-1), axis=-1)
            before = ops.cumsum(ordered, axis=-1) - ordered  # of the likelier ones
            least = ops.min(ops.where(before < self.top_p, ordered, 1.0), axis=-1, keepdims=True)
            p = ops.where(p >= least, p, 0.0)
        reached = ops.cumsum(p, axis=-1)
        drawn = ops.sum(ops.cast(reached <= noise[..., None] * reached[..., -1:], "int32"), axis=-1)
        drawn = ops.minimum(drawn, p.shape[-1] - 1)
        return drawn, ops.take_along_axis(probabilities, drawn[..., None], axis=-1)[..., 0]


@register
class MaskedAncestral(MaskedSampler):
    """Draws from q(x_s | x_t, x) with the network's x: each token is uncovered by chance (Sahoo et al., equation 7).

    With `remasking`, clear tokens are masked again by chance, so that a wrong one can be mended (Wang et al. 2025,
    ReMDM, arXiv:2503.00307: section 4.1, capped): with the probability min(remasking, (1 - alpha_s) / alpha_t).

    Args:
        temperature, top_p: see `MaskedSampler`.
        remasking: in [0, 1].

    Raises:
        ValueError: on one of them out of range.
    """

    def __init__(self, temperature=1.0, top_p=1.0, remasking=0.0):
        super().__init__(temperature, top_p)
        if not 0 <= remasking <= 1:
            raise ValueError(f"`remasking` must be in [0, 1]. Received: {remasking}")
        self.remasking = remasking

    def step(self, predict, x, t, s, noise=None):
        mask = predict.process.vocabulary
        drawn, _ = self._draw(predict(x, t), noise[..., 0])
        alpha_t, alpha_s = (expand_right(predict.schedule(time)[0], x) for time in (t, s))
        again = ops.minimum(self.remasking, (1 - alpha_s) / ops.maximum(alpha_t, _SMALLEST))
        # (alpha_s - (1 - again) alpha_t) / (1 - alpha_t), in a form that is exactly 1 where s is 0
        uncovered = 1 - (1 - alpha_s - again * alpha_t) / ops.maximum(1 - alpha_t, _SMALLEST)
        u = noise[..., 1]
        return ops.where(x == mask, ops.where(u < uncovered, drawn, mask), ops.where(u < again, mask, x))


@register
class MaskGIT(MaskedSampler):
    """Uncovers the tokens that the network is surest of (Chang et al. 2022, section 3.2).

    In each step so many that the share of masked tokens is what the schedule of the process says; where that is no
    whole number it is so on average. MaskGIT's schedule is `CosineMasking`.

    Args:
        temperature, top_p: see `MaskedSampler`.
        randomness: the factor of Gumbel noise on log-probabilities, times t: 0 takes the surest, more gives variety.

    Raises:
        ValueError: on one of them out of range.
    """

    def __init__(self, temperature=1.0, top_p=1.0, randomness=4.5):
        super().__init__(temperature, top_p)
        if not 0 <= randomness < math.inf:
            raise ValueError(f"`randomness` must be finite and not negative. Received: {randomness}")
        self.randomness = randomness

    def step(self, predict, x, t, s, noise=None):
        mask = predict.process.vocabulary
        drawn, likely = self._draw(predict(x, t), noise[..., 0])
        masked = ops.reshape(x == mask, (ops.shape(x)[0], -1))
        u = noise[..., 1] * (1 - 2.0**-24) + 2.0**-25
        t = ops.convert_to_tensor(t, "float32")
        score = ops.log(likely + 1e-30) - self.randomness * expand_right(t, x) * ops.log(-ops.log(u))
        score = ops.where(masked, ops.reshape(score, ops.shape(masked)), float("-inf"))
        rank = ops.argsort(ops.argsort(-score, axis=-1), axis=-1)
        num_masked = ops.sum(ops.cast(masked, "float32"), axis=-1, keepdims=True)
        before, after = (1 - predict.schedule(time)[0] for time in (t, s))
        share = 1 - after / ops.maximum(before, _SMALLEST)
        chance = ops.mod(ops.sum(ops.reshape(u, ops.shape(masked)), axis=-1, keepdims=True), 1.0)  # rounds up or down
        number = ops.floor(num_masked * expand_right(share, num_masked) + chance)
        uncovered = ops.logical_and(masked, ops.cast(rank, "float32") < number)
        return ops.where(ops.reshape(uncovered, ops.shape(x)), drawn, x)
