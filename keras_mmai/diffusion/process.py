"""Gaussian diffusion, equations (1) to (3) of `keras_mmai.diffusion`: data to noise, target, and back."""

from keras import ops

from keras_mmai.diffusion.schedules import FlowLinear, expand_right
from keras_mmai.diffusion.times import LogitNormalTimes
from keras_mmai.serialization import Configurable, register

# Below this determinant the two equations are one told twice (noise prediction where no data is left, data prediction
# where no noise is): dividing by it would blow up the smallest error of the network. Only the last step of a chain
# comes so near.
_SINGULAR = 1e-3

# The row (a, b) of the target y = a x + b eps, equation (2), for every prediction: schedule, t -> a, b of t's shape.
_ROWS = {
    "data": lambda schedule, t: (ops.ones_like(t), ops.zeros_like(t)),
    "noise": lambda schedule, t: (ops.zeros_like(t), ops.ones_like(t)),
    "velocity": lambda schedule, t: schedule.derivative(t),
    "v": lambda schedule, t: (-schedule(t)[1], schedule(t)[0]),
}


def check_same_shape(what, a, b):
    sizes = zip(a.shape, b.shape)
    if len(a.shape) != len(b.shape) or any(m != n and None not in (m, n) for m, n in sizes):
        raise ValueError(f"{what} must have the same shape. Received: {tuple(a.shape)} and {tuple(b.shape)}.")


@register
class GaussianDiffusion(Configurable):
    """A Gaussian process between data and noise and what a network learns of it.

    Throughout, t is float32 in [0, 1], 0 = data and 1 = noise: a scalar, (b,), or any leading axes of x, such as
    (b, n) for one level per token. Everything is computed and returned in float32.

    Args:
        schedule: a `Schedule`; `FlowLinear()` when None.
        prediction: what the network returns: "data" (x), "noise" (eps), "velocity" (dx_t / dt; flow matching, Lipman
            et al. 2022) or "v" (alpha eps - sigma x; Salimans & Ho 2022).
        times: the `Times` trained on; `LogitNormalTimes()` when None.

    Raises:
        ValueError: on another prediction.
    """

    def __init__(self, schedule=None, prediction="velocity", times=None):
        if prediction not in _ROWS:
            raise ValueError(f"prediction must be one of {sorted(_ROWS)}. Received: {prediction!r}.")
        self.schedule = FlowLinear() if schedule is None else schedule
        self.prediction = prediction
        self.times = LogitNormalTimes() if times is None else times

    def _coefficients(self, x, t):
        """The matrix of equations (1) and (2), broadcast over x: (alpha, sigma), (a, b)."""
        t = ops.convert_to_tensor(t, "float32")
        rows = (self.schedule(t), _ROWS[self.prediction](self.schedule, t))
        return [[expand_right(value, x) for value in row] for row in rows]

    def prior(self, noise):
        """Unit Gaussian noise (b, …) -> x_1 (b, …), where sampling starts: equation (1) at t = 1 without its data."""
        _, sigma = self.schedule(1.0)
        return sigma * ops.cast(noise, "float32")

    def corrupt(self, x, t, noise):
        """x (b, …), t, noise (b, …) -> x_t (b, …) and the target y (b, …): equations (1) and (2)."""
        x, noise = ops.cast(x, "float32"), ops.cast(noise, "float32")
        check_same_shape("The data x and its noise", x, noise)
        (alpha, sigma), (a, b) = self._coefficients(x, t)
        return alpha * x + sigma * noise, a * x + b * noise

    def loss(self, output, target, t):
        """Mean squared error per example: output (b, …), target (b, …) -> (b,). Every t weighs the same here."""
        output, target = ops.cast(output, "float32"), ops.cast(target, "float32")
        check_same_shape("The network's output and the target", output, target)
        return ops.mean(ops.square(output - target), axis=tuple(range(1, len(output.shape))))

    def split(self, output, x_t, t):
        """What the output says about data and noise: output (b, …), x_t (b, …), t -> x_hat (b, …), eps_hat (b, …).

        Solves equations (1) and (2) for x and eps, equation (3), whatever the prediction is. Where they are one
        equation, the solution is the smallest: what they do not tell is estimated by its mean, zero.
        """
        output, x_t = ops.cast(output, "float32"), ops.cast(x_t, "float32")
        check_same_shape("The network's output and x_t", output, x_t)
        (alpha, sigma), (a, b) = self._coefficients(x_t, t)
        determinant = alpha * b - sigma * a
        singular = ops.abs(determinant) < _SINGULAR
        determinant = ops.where(singular, 1.0, determinant)
        squares = alpha * alpha + sigma * sigma + a * a + b * b  # of a matrix of rank 1, the pseudo-inverse's divisor

        def solve(by_x_t, by_output, transposed_x_t, transposed_output):
            by_x_t = ops.where(singular, transposed_x_t / squares, by_x_t / determinant)
            by_output = ops.where(singular, transposed_output / squares, by_output / determinant)
            return by_x_t * x_t + by_output * output

        return solve(b, -sigma, alpha, a), solve(-a, alpha, sigma, b)

    def denoiser(self, network):
        """What a sampler calls: `network` (x_t (b, …), t (b,)) -> output (b, …) as a `Denoiser`."""
        return Denoiser(self, network)


class Denoiser:
    """A network seen through its process: x_t (b, …), t () or (b,) -> what `process.split` says of the data.

    Of a `GaussianDiffusion` x_hat and eps_hat (b, …), of a `MaskedDiffusion` probabilities (b, …, vocabulary).
    """

    def __init__(self, process, network):
        self.process = process
        self.network = network

    @property
    def schedule(self):
        return self.process.schedule

    def __call__(self, x_t, t):
        t = ops.broadcast_to(ops.convert_to_tensor(t, "float32"), (ops.shape(x_t)[0],))
        return self.process.split(self.network(x_t, t), x_t, t)
