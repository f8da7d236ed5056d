"""Noise to data in steps. The base class owns the loop; a sampler is one step from time t to time s.

`predict` is a `Denoiser`: (x_t, t) -> x_hat, eps_hat, with the schedule as an attribute. Deterministic samplers also
run from data to noise (s > t), which inverts them. The samplers of tokens are in `keras_mmai.diffusion.masked`.
"""

from keras import ops

from keras_mmai.serialization import Configurable, register


class Sampler(Configurable):
    """Abstract: a subclass defines `step`, sets `stochastic` if the step reads its noise, and says how many
    `evaluations` of the network it takes."""

    stochastic = False
    evaluations = 1
    dtype = "float32"  # of x

    def step(self, predict, x, t, s, noise=None):
        """One step: x (b, …) at time t () -> x (b, …) at time s (); noise (b, …) unit Gaussian if `stochastic`."""
        raise NotImplementedError

    def __call__(self, predict, x, times, noise=None):
        """Carries x along the times, in one compiled loop.

        Args:
            predict: a `Denoiser`.
            x: (b, …) at times[0], in the first place `process.prior(noise)`.
            times: (n + 1,) float32, falling from 1 to 0 to generate. An argument, so that a compiled sampler takes
                other times of the same number without being traced again.
            noise: step index i, int32 () -> unit Gaussian noise (b, …). Only a stochastic sampler calls it.

        Returns:
            x (b, …) float32 at times[-1].
        """
        x, times = self._check(x, times, noise)
        num_steps = ops.shape(times)[0] - 1
        return ops.fori_loop(0, num_steps, lambda i, x: self._advance(predict, x, times, noise, i), x)

    def trajectory(self, predict, x, times, noise=None):
        """The same, keeping every state: -> (n + 1, b, …), for pictures."""
        x, times = self._check(x, times, noise)

        def advance(x, i):
            x = self._advance(predict, x, times, noise, i)
            return x, x

        _, states = ops.scan(advance, x, ops.arange(ops.shape(times)[0] - 1))
        return ops.concatenate([x[None], states])

    def _advance(self, predict, x, times, noise, i):
        i = ops.convert_to_tensor(i, "int32")
        t, s = ops.take(times, i, axis=0), ops.take(times, i + 1, axis=0)
        return self.step(predict, x, t, s, noise(i) if self.stochastic else None)

    def _check(self, x, times, noise):
        times = ops.convert_to_tensor(times, "float32")
        if len(times.shape) != 1 or (times.shape[0] is not None and times.shape[0] < 2):
            raise ValueError(
                f"times must be one axis of at least 2 points, such as uniform_times(50). Received: {times.shape}"
            )
        if self.stochastic and not callable(noise):
            raise ValueError(
                f"{self} draws noise at every step: pass noise=lambda i: the noise of `step`, such as "
                f"normal(seed, shape, stream=i). Received: noise={noise!r}."
            )
        return ops.cast(x, self.dtype), times


def _velocity(predict, x, t):
    """dx/dt of the probability-flow ODE, equation (4)."""
    x_hat, eps_hat = predict(x, t)
    d_alpha, d_sigma = predict.schedule.derivative(t)
    return d_alpha * x_hat + d_sigma * eps_hat


@register
class Euler(Sampler):
    """First order on equation (4), one evaluation per step. For flow matching the plain sampler."""

    def step(self, predict, x, t, s, noise=None):
        return x + (s - t) * _velocity(predict, x, t)


@register
class Heun(Sampler):
    """Second order on equation (4), two evaluations per step (Karras et al. 2022, algorithm 1)."""

    evaluations = 2

    def step(self, predict, x, t, s, noise=None):
        start = _velocity(predict, x, t)
        euler = x + (s - t) * start
        # At s = 0 the slope may not exist. One Euler step errs by h^2, no more than all the others together.
        return ops.cond(s > 0, lambda: x + (s - t) * (start + _velocity(predict, euler, s)) / 2, lambda: euler)


@register
class DDIM(Sampler):
    """x_s = alpha_s x_hat + sigma_s eps_hat (Song et al. 2021, equation 12 with sigma = 0). On `FlowLinear`, Euler."""

    def step(self, predict, x, t, s, noise=None):
        x_hat, eps_hat = predict(x, t)
        alpha, sigma = predict.schedule(s)
        return alpha * x_hat + sigma * eps_hat


@register
class Ancestral(Sampler):
    """Draws from q(x_s | x_t, x_hat): DDPM at eta = 1 (Ho et al. 2020, equations 6 and 7), DDIM at eta = 0.

    With r = (alpha_t sigma_s) / (alpha_s sigma_t), the fresh noise has deviation eta sigma_s sqrt(1 - r^2): sigma(eta)
    of Song et al. 2021, equation 16, where the schedule preserves variance, and the same posterior where it does not.

    Args:
        eta: share of fresh noise, in [0, 1].
    """

    def __init__(self, eta=1.0):
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1]. Received: {eta}.")
        self.eta = eta

    @property
    def stochastic(self):
        return self.eta > 0

    def step(self, predict, x, t, s, noise=None):
        x_hat, eps_hat = predict(x, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = predict.schedule(t), predict.schedule(s)
        r = (alpha_t * sigma_s) / (alpha_s * sigma_t)
        fresh = self.eta * ops.sqrt(ops.maximum(1 - r * r, 0))
        mean = alpha_s * x_hat + sigma_s * ops.sqrt(1 - fresh * fresh) * eps_hat
        return mean + sigma_s * fresh * noise if self.stochastic else mean
