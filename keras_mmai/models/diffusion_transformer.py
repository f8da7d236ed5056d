"""What users `fit`: a network, a process, and a tokenizer if the signal is generated in latent space."""

import keras
from keras import ops

from keras_mmai.diffusion import GaussianDiffusion, stratified
from keras_mmai.models.generator import Generator, averaged_copy, check_labels
from keras_mmai.serialization import register
from keras_mmai.tokenizers.tokenizer import check_signal_values
from keras_mmai.training import TrainingModel, freeze


@register
class DiffusionTransformer(TrainingModel):
    """Diffusion on signals, or on the latents of a frozen tokenizer (Rombach et al. 2022).

    `fit` takes a dict with

    * "x" (b, *s, c): signals in [-1, 1]; or, with a tokenizer, "latents" (b, *latent_shape): signals encoded before,
      once (`tokenizer.predict(x)["latents"]`), instead of in every step;
    * "labels" (b,) int32 in 0..num_classes-1, if the network has classes;
    * "t" (b,) and "noise" (like the latents), if they are to be given; else they are drawn, one time from each of b
      equal strata of the process's distribution.

    An array alone is "x". Of arrays the ranges are checked by `fit` and `evaluate`, of a PyDataset those of the first
    batch. A `sample_weight` (n,) of arrays needs no `y`.

    The named loss is "diffusion", the mean squared error of the process's target. `evaluate` and validation use the
    first moving average of the weights, on noise that is new in every batch: give "t" and "noise" for a validation loss
    that training can be stopped by. `generator` gives the model that samples.

    Args:
        network: a model such as `DiT`: called as `network(x, t, labels=..., training=...)`, with an attribute
            `input_shape` (*s, c), that of what is generated, and with a config to be copied by.
        process: a `GaussianDiffusion`; None is flow matching with logit-normal times.
        tokenizer: a trained `Tokenizer` with latents, or None. It is frozen: `tokenizer.trainable` becomes False.
        ema_decays: floats, one moving average of the network's weights each.
        seed: int or None.

    Raises:
        ValueError: if the network's shape is not that of the tokenizer's latents.
    """

    def __init__(self, network, process=None, tokenizer=None, ema_decays=(0.999,), seed=None, **kwargs):
        super().__init__(("diffusion",), ema_decays, **kwargs)
        if tokenizer is not None:
            if network.input_shape != tokenizer.latent_shape:
                raise ValueError(
                    f"The network takes {network.input_shape}, but the tokenizer's latents are "
                    f"{tokenizer.latent_shape}: build the network with input_shape="
                    "tokenizer.latent_shape."
                )
            freeze(tokenizer)
        self.network = network
        self.process = GaussianDiffusion() if process is None else process
        self.tokenizer = tokenizer
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        self.build_averages()
        self.built = True

    def call(self, x, training=False):
        inputs = x if isinstance(x, dict) else {"x": x}
        latents = self._latents(inputs)
        batch = ops.shape(latents)[0]
        if "t" in inputs:
            t = ops.cast(inputs["t"], "float32")
        else:
            t = self.process.times(stratified(keras.random.uniform((batch,), seed=self.seed_generator)))
        noise = inputs.get("noise")
        if noise is None:
            noise = keras.random.normal(ops.shape(latents), dtype="float32", seed=self.seed_generator)
        x_t, target = self.process.corrupt(latents, t, noise)
        conditions = {"labels": inputs["labels"]} if "labels" in inputs else {}
        output = self.network(x_t, t, training=training, **conditions)
        return {"output": ops.cast(output, "float32"), "target": target, "t": t}

    def _latents(self, inputs):
        """The tensor that is diffused, (b, *network.input_shape) float32."""
        key = "latents" if "latents" in inputs else "x"
        if key not in inputs or (key == "latents" and self.tokenizer is None):
            raise ValueError(
                "A batch needs 'x' (signals)"
                + ("" if self.tokenizer is None else " or 'latents'")
                + f". Received keys: {sorted(inputs)}"
            )
        labelled = getattr(self.network, "num_classes", None) is not None
        if "labels" in inputs and not labelled:
            raise ValueError("The batch has 'labels', but the network was built with num_classes=None.")
        if labelled and "labels" not in inputs:
            raise ValueError(
                f"The network has {self.network.num_classes} classes: the batch needs 'labels' (b,) "
                f"int32. Received keys: {sorted(inputs)}"
            )
        latents = ops.cast(inputs[key], "float32")
        if key == "x" and self.tokenizer is not None:
            latents = ops.stop_gradient(self.tokenizer.encode(latents, tokens="latents"))
        if tuple(latents.shape[1:]) != self.network.input_shape:
            raise ValueError(
                f"The network takes {('b', *self.network.input_shape)}, channels last. Received "
                f"'{key}' of shape {tuple(latents.shape)}"
            )
        return latents

    def check_values(self, x):
        inputs = x if isinstance(x, dict) else {"x": x}
        if "x" in inputs:
            check_signal_values(inputs["x"], "Signals 'x'")
        if "labels" in inputs and getattr(self.network, "num_classes", None) is not None:
            check_labels(inputs["labels"], self.network.num_classes)

    def named_losses(self, x, y_pred):
        return {"diffusion": self.process.loss(y_pred["output"], y_pred["target"], y_pred["t"])}

    def generator(self, sampler=None, num_steps=20, guidance=None, average=0):
        """The `Generator` of this model, with a copy of the network by moving average number `average`.

        It runs with XLA if this model was compiled so (`jit_compile`).

        Args:
            sampler, num_steps, guidance: see `Generator`.
            average: int, index into `ema_decays`.
        """
        network = averaged_copy(self, self.network, average)
        generator = Generator(network, self.process, self.tokenizer, sampler, num_steps, guidance)
        if self.compiled:
            generator.jit_compile = self.jit_compile
        return generator
