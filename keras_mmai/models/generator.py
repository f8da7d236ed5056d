"""Sampling as a model: its call holds the sampler, the guidance and the decoder."""

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import GaussianDiffusion, Heun, Sampler, normal, uniform_times
from keras_mmai.distribution import UntunedData
from keras_mmai.noise import row_seeds
from keras_mmai.serialization import register
from keras_mmai.serving import Servable
from keras_mmai.training import freeze


@register
class Generator(UntunedData, Servable, keras.Model):
    """Noise to signals, in one compiled call: `predict` generates in batches, `export` writes a SavedModel.

    Call: a dict with "seed" (b, 2) int32, two numbers for each row, which alone decide that row's noise, whatever
    batch it is in and whatever the backend; or "noise" (b, *latent_shape) float32 itself; and "labels" (b,) int32 in
    0..num_classes (num_classes: no label), if the network has classes. Output (b, *s, c) float32 in [-1, 1].

    Args:
        network: a model `network(x, t, labels)`, such as `DiT`.
        process: the `GaussianDiffusion` it was trained with.
        tokenizer: the `Tokenizer` whose latents it generates, or None.
        sampler: a `Sampler`; None is `Heun()`.
        num_steps: int, steps of the sampler.
        guidance: a `ClassifierFreeGuidance`, or None.
    """

    def __init__(self, network, process, tokenizer=None, sampler=None, num_steps=20, guidance=None, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1. Received: {num_steps}")
        if guidance is not None and getattr(network, "num_classes", None) is None:
            raise ValueError("Guidance needs a network with classes (num_classes).")
        sampler = Heun() if sampler is None else sampler
        for name, value, kind in (("process", process, GaussianDiffusion), ("sampler", sampler, Sampler)):
            if not isinstance(value, kind):
                raise ValueError(f"`{name}` must be a `keras_mmai.diffusion.{kind.__name__}`. Received: {value!r}")
        self.network = network
        self.process = process
        self.tokenizer = tokenizer
        self.sampler = sampler
        self.num_steps = num_steps
        self.guidance = guidance
        self.latent_shape = tuple(network.input_shape)
        self.num_classes = getattr(network, "num_classes", None)
        self.built = True

    def get_build_config(self):
        return None

    def call(self, inputs):
        inputs = inputs if isinstance(inputs, dict) else {"noise": inputs}
        x, step_noise = self._start(inputs)
        x = self.sampler(self._denoiser(inputs), x, uniform_times(self.num_steps), step_noise)
        return self._signal(x)

    def trajectory(self, inputs):
        """The signals at every step, (num_steps + 1, b, *s, c): for pictures; see `Sampler.trajectory`."""
        x, step_noise = self._start(inputs)
        states = self.sampler.trajectory(self._denoiser(inputs), x, uniform_times(self.num_steps), step_noise)
        return ops.stack([self._signal(state) for state in states])

    def _start(self, inputs):
        """The prior's sample, and the noise of a stochastic sampler's step i."""
        if ("seed" in inputs) == ("noise" in inputs):
            raise ValueError(
                f"Give 'seed' (b, 2) int32 or 'noise' {('b', *self.latent_shape)} float32, one of them. "
                f"Received keys: {sorted(inputs)}"
            )
        if "noise" in inputs:
            if self.sampler.stochastic:
                raise ValueError(f"{self.sampler} draws noise in every step: give 'seed' instead of 'noise'.")
            return self.process.prior(inputs["noise"]), None
        seed = ops.cast(inputs["seed"], "int32")
        first = normal(seed, self.latent_shape)
        return self.process.prior(first), lambda i: normal(seed, self.latent_shape, stream=i + 1)

    def _denoiser(self, inputs):
        if (self.num_classes is None) != ("labels" not in inputs):
            raise ValueError(
                "'labels' are needed by a network with classes, and only by it. Received keys: "
                f"{sorted(inputs)}, num_classes={self.num_classes}"
            )
        conditions = {name: ops.cast(inputs[name], "int32") for name in ("labels",) if name in inputs}
        null = {name: ops.full_like(value, self.num_classes) for name, value in conditions.items()}

        def network(x, t, conditions):
            return self.network(x, t, training=False, **conditions)

        def guided(x, t):
            if self.guidance is None:
                return network(x, t, conditions)
            return self.guidance(network, x, t, conditions, null)

        return self.process.denoiser(guided)

    def _signal(self, x):
        return ops.clip(x, -1.0, 1.0) if self.tokenizer is None else self.tokenizer.decode(x)

    def generate(self, num_samples=None, labels=None, seed=0, batch_size=100, verbose=0):
        """Generates signals: numpy (n, *s, c) float32 in [-1, 1].

        Args:
            num_samples: int, or None for one of each of `labels`.
            labels: ints 0..num_classes-1, one for each sample, or one int for all; None: no label.
            seed: int. Sample i depends on (seed, i, its label) alone.
            batch_size, verbose: of `predict`.

        Raises:
            ValueError: on a label out of range, or labels of another number than `num_samples`.
        """
        inputs = {}
        if self.num_classes is not None:
            if labels is None:
                labels = self.num_classes
            else:
                check_labels(np.asarray(labels), self.num_classes)
            labels = np.asarray(labels, "int32")
            if labels.ndim == 0:
                labels = np.full((1 if num_samples is None else num_samples,), labels, "int32")
            if num_samples not in (None, len(labels)):
                raise ValueError(f"{len(labels)} labels for num_samples={num_samples}.")
            inputs["labels"], num_samples = labels, len(labels)
        elif labels is not None:
            raise ValueError("The network has no classes: leave `labels` out.")
        num_samples = 1 if num_samples is None else num_samples
        if num_samples < 1:
            raise ValueError(f"There is nothing to generate: num_samples={num_samples}.")
        inputs["seed"] = ops.convert_to_numpy(row_seeds(seed, num_samples))
        return np.asarray(self.predict(inputs, batch_size=batch_size, verbose=verbose))

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})}: generate, and the tokenizer's if there is one."""
        arguments = {"seed": ((2,), "int32")}
        if self.num_classes is not None:
            arguments["labels"] = ((), "int32")
        signatures = {"generate": (lambda **inputs: {"x": self(inputs)}, arguments)}
        if self.tokenizer is not None:
            signatures.update(self.tokenizer.serving_signatures())
        return signatures


def averaged_copy(model, network, average):
    """A frozen copy of the `network` of a `TrainingModel`, with its weights by moving average number `average`."""
    copy = network.__class__.from_config(network.get_config())
    for target, weight in zip(copy.variables, model.averaged_weights(network.variables, average)):
        target.assign(ops.copy(ops.cast(weight, target.dtype)))  # an alias breaks buffer donation on JAX
    freeze(copy)
    return copy


def check_labels(labels, num_classes):
    """Raises ValueError unless the numpy array `labels` holds integers 0..num_classes-1, along at most one axis."""
    if labels.ndim > 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "Labels are integers along one axis (squeeze (b, 1), take the argmax of one-hot vectors). "
            f"Received: shape {labels.shape}, dtype {labels.dtype}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"Labels must be 0..{num_classes - 1}. Received: values from {labels.min()} to {labels.max()}")
