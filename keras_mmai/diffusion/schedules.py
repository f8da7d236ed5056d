"""Noise schedules, equation (1) of `keras_mmai.diffusion`: what of x and what of eps is in x_t.

The DDPM chains are kept twice on purpose: as float64 numpy tables over integer steps (what checkpoints were trained
with) and as `VPLinear` / `VPCosine`, which pass through those tables at t = i / num_steps.
"""

import numpy as np
from keras import ops

from keras_mmai.serialization import Configurable, register


def expand_right(values, x):
    """`values` (any leading axes of x) with axes of size 1 appended until it broadcasts over x: (b,) -> (b, 1, …)."""
    for _ in range(len(x.shape) - len(values.shape)):
        values = ops.expand_dims(values, -1)
    return values


# Tables of the discrete chain, float64, index i = 0 … num_steps - 1; float32 loses 1 - alpha_bar at small i.


def linear_betas(num_steps=1000):
    """Linear variances of Ho et al. 2020, section 4, stretched to any number of steps. -> (num_steps,) in (0, 1)."""
    if num_steps <= 20:
        raise ValueError(
            f"linear_betas needs num_steps > 20 (the last beta is 20 / num_steps < 1). Received: {num_steps}."
        )
    return np.linspace(1e-4, 0.02, num_steps, dtype="float64") * (1000 / num_steps)


def cosine_betas(num_steps=1000):
    """Cosine variances of Nichol & Dhariwal 2021, equation 17, capped at .999. -> (num_steps,) in (0, 1)."""
    t = np.arange(num_steps + 1, dtype="float64") / num_steps
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


def gaussian_tables(betas):
    """Every constant of the discrete chain (Ho et al. 2020, equations 4 and 7) from its betas (n,). -> dict of (n,)."""
    betas = np.asarray(betas, "float64")
    alpha_bar = np.cumprod(1 - betas)
    previous = np.append(1.0, alpha_bar[:-1])
    variance = betas * (1 - previous) / (1 - alpha_bar)
    return {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": previous,
        "alphas_cumprod_next": np.append(alpha_bar[1:], 0.0),
        "sqrt_alphas_cumprod": np.sqrt(alpha_bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alpha_bar),
        "log_one_minus_alphas_cumprod": np.log(1 - alpha_bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alpha_bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alpha_bar - 1),
        "posterior_variance": variance,
        # The first variance is 0: its logarithm is replaced by the second's. Empty for a chain of one step.
        "posterior_log_variance_clipped": np.log(np.append(variance[1:2], variance[1:])),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - alpha_bar),
    }


def timestep_map(spec, num_steps=1000):
    """Which steps of a long chain a short one keeps (Nichol & Dhariwal 2021; "ddim": Song et al. 2021).

    Args:
        spec: "250" = that many steps, evenly rounded from the first to the last; "10,10,20" = the chain is cut into as
            many equal parts, each keeping that many; "ddim25" = a constant integer stride from step 0.
        num_steps: length of the long chain.

    Returns:
        Increasing int64 indices in [0, num_steps).
    """
    if spec.startswith("ddim"):
        count = int(spec.removeprefix("ddim"))
        strides = [stride for stride in range(1, num_steps + 1) if len(range(0, num_steps, stride)) == count]
        if not strides:
            raise ValueError(f"No integer stride keeps exactly {count} of {num_steps} steps; use the spec '{count}'.")
        return np.arange(0, num_steps, strides[0])
    counts = [int(count) for count in spec.split(",")]
    kept = []
    for part, count in zip(np.array_split(np.arange(num_steps), len(counts)), counts):
        if not 1 <= count <= len(part):
            raise ValueError(f"A part of {len(part)} steps cannot keep {count} of them (spec {spec!r}).")
        kept.append(part[np.rint(np.linspace(0, len(part) - 1, count)).astype(int)])
    return np.concatenate(kept)


def respace(betas, spec):
    """The short chain with the same alpha_bar at the kept steps. -> `timestep_map` (m,), its betas (m,)."""
    kept = timestep_map(spec, len(betas))
    alpha_bar = np.cumprod(1 - np.asarray(betas, "float64"))[kept]
    return kept, 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


# Grids of times for a sampler, float32, from noise to data.


def uniform_times(num_steps, shift=1.0):
    """`num_steps` equal steps from t = 1 to 0, moved towards the noise by `shift` > 1. -> (num_steps + 1,) float32.

    t' = shift t / (1 + (shift - 1) t): Esser et al. 2024, equation 23, for signals of higher dimension.
    """
    t = np.linspace(1.0, 0.0, num_steps + 1)
    return (shift * t / (1 + (shift - 1) * t)).astype("float32")


def respaced_times(spec, num_steps=1000):
    """`timestep_map` as our times: step i is t = (i + 1) / num_steps, and the data is t = 0. -> (m + 1,) float32."""
    return np.append((timestep_map(spec, num_steps)[::-1] + 1) / num_steps, 0.0).astype("float32")


class Schedule(Configurable):
    """How much data and how much noise: alpha falls from 1, sigma rises from 0, over t in [0, 1]."""

    def __call__(self, t):
        """t float32 of any shape -> alpha, sigma, both of t's shape."""
        raise NotImplementedError

    def derivative(self, t):
        """t float32 of any shape -> d alpha / dt, d sigma / dt, both of t's shape."""
        raise NotImplementedError


@register
class FlowLinear(Schedule):
    """Straight paths: alpha = 1 - t, sigma = t (Liu et al. 2022, rectified flow; Lipman et al. 2022, equation 22)."""

    def __call__(self, t):
        t = ops.convert_to_tensor(t, "float32")
        return 1 - t, t

    def derivative(self, t):
        t = ops.convert_to_tensor(t, "float32")
        return -ops.ones_like(t), ops.ones_like(t)


class VariancePreserving(Schedule):
    """A discrete chain made continuous: log alpha_bar(t) is linear between its knots (i / num_steps, log alpha_bar_i).

    alpha^2 = alpha_bar, sigma^2 = 1 - alpha_bar. Abstract: a subclass names its betas.

    Args:
        num_steps: length of the chain.
    """

    def __init__(self, num_steps=1000):
        self.num_steps = num_steps
        log_alpha_bar = np.append(0.0, np.cumsum(np.log1p(-self.betas())))
        self._knots = log_alpha_bar[:-1].astype("float32")
        self._slopes = np.diff(log_alpha_bar).astype("float32")

    def betas(self):
        """-> (num_steps,) float64 variances of the steps."""
        raise NotImplementedError

    def _log_alpha_bar(self, t):
        """t -> log alpha_bar and its derivative by t."""
        position = ops.convert_to_tensor(t, "float32") * self.num_steps
        index = ops.clip(ops.floor(position), 0, self.num_steps - 1)
        knot = ops.take(self._knots, ops.cast(index, "int32"), axis=0)
        slope = ops.take(self._slopes, ops.cast(index, "int32"), axis=0)
        return knot + (position - index) * slope, slope * self.num_steps

    def __call__(self, t):
        log_alpha_bar, _ = self._log_alpha_bar(t)
        return ops.exp(log_alpha_bar / 2), ops.sqrt(-ops.expm1(log_alpha_bar))

    def derivative(self, t):
        alpha, sigma = self(t)
        _, rate = self._log_alpha_bar(t)
        # d sigma / dt is infinite at t = 0; the chord of the first step stands in for it there.
        chord = float(np.sqrt(-np.expm1(self._slopes[0]))) * self.num_steps
        exact = -alpha * alpha * rate / (2 * ops.where(sigma > 0, sigma, 1.0))
        return alpha * rate / 2, ops.where(sigma > 0, exact, chord)


@register
class VPLinear(VariancePreserving):
    """The chain of `linear_betas` (Ho et al. 2020), the one DiT checkpoints were trained with."""

    def betas(self):
        return linear_betas(self.num_steps)


@register
class VPCosine(VariancePreserving):
    """The chain of `cosine_betas` (Nichol & Dhariwal 2021)."""

    def betas(self):
        return cosine_betas(self.num_steps)
