"""What users `fit` on several modalities at once: any of them from any of them, and any may be missing."""

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import UniformTimes, stratified
from keras_mmai.models.generator import averaged_copy
from keras_mmai.models.modality import Modality
from keras_mmai.models.multimodal_dit import MultimodalDiT
from keras_mmai.models.multimodal_generator import MultimodalGenerator
from keras_mmai.models.tasks import ABSENT, GENERATED, GIVEN, check_tasks, fillings
from keras_mmai.serialization import register
from keras_mmai.training import TrainingModel


@register
class MultimodalDiffusionTransformer(TrainingModel):
    """One diffusion transformer for every task on its modalities.

    Each example of a training batch draws a task: some modalities are given (noise level 0), some are generated (all at
    one noise level t), the rest are absent. So the model learns every conditional, joint and marginal distribution
    at once. Of examples that lack a modality, it is absent whatever the task says.

    `fit` takes a dict with some of

    * the name of each modality: signals, or their tokens (`precompute`). Of arrays and lists of texts `fit` itself
      computes the tokens, once; of a tf.data.Dataset the tokenizers with weights do in every step, and texts must be
      tokens;
    * "present": a dict of bool (b,), or (b, n) for each token, by name: what an example really has. Without, all is;
    * "task" (b,) int32, the place in `tasks`; "t" and "noise", dicts by name of (b,) and of the shape of the tokens,
      Gaussian for latents and uniform in [0, 1) for ids. They are drawn if they are absent.

    The losses are named as the modalities: the mean of the process's loss over the examples that generate it.

    Args:
        modalities: list of `Modality`.
        network: a `MultimodalDiT` of them; None is one of the default size.
        tasks: dict of (given, wanted) by name, tuples of names, that are trained and exported; None is `fillings`: all.
        independent_times: float in [0, 1], the share of examples whose generated modalities have times of their own.
        ema_decays: see `TrainingModel`.
        seed: int or None.

    Raises:
        ValueError: on two modalities of one name, tasks of unknown modalities, or a network of others.
    """

    def __init__(
        self,
        modalities,
        network=None,
        tasks=None,
        independent_times=0.25,
        ema_decays=(0.999,),
        seed=None,
        **kwargs,
    ):
        modalities = list(modalities)
        if not modalities or not all(isinstance(m, Modality) for m in modalities):
            raise ValueError(f"`modalities` are one or more `Modality`. Received: {modalities}")
        names = [m.name for m in modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"`modalities` need different names. Received: {names}")
        if not 0 <= independent_times <= 1:
            raise ValueError(f"`independent_times` is a share in [0, 1]. Received: {independent_times}")
        super().__init__([m.name for m in modalities if not m.adaln], ema_decays, **kwargs)
        self.modalities = modalities
        self.network = MultimodalDiT(modalities) if network is None else network
        if self.network.spaces != {m.name: m.space for m in modalities}:
            raise ValueError(f"`network` is of other modalities: build it as MultimodalDiT({names}, ...).")
        self.tasks = fillings(modalities) if tasks is None else {k: tuple(map(tuple, v)) for k, v in tasks.items()}
        check_tasks(self.tasks, modalities)
        self.independent_times = independent_times
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.tokenizers = [m.tokenizer for m in modalities]  # so that their weights are saved
        self.times = UniformTimes()
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        self.build_averages()
        self.built = True

    def _roles(self, name):
        """The role of a modality in each task, numpy int32."""
        return np.array(
            [GIVEN if name in given else GENERATED if name in want else ABSENT for given, want in self.tasks.values()],
            "int32",
        )

    def call(self, x, training=False):
        modalities = [m for m in self.modalities if m.name in x]
        generable = [m for m in modalities if not m.adaln]
        if not generable:
            raise ValueError(
                f"A batch needs one of {[m.name for m in self.modalities if not m.adaln]}. Received keys: {sorted(x)}"
            )
        tokens = {m.name: m.encode_batch(x[m.name]) for m in modalities}
        batch = ops.shape(tokens[generable[0].name])[0]
        present = {m.name: self._present(m, x, batch) for m in modalities}
        here = {name: ops.any(flags, axis=1) for name, flags in present.items()}
        roles = self._draw_roles(modalities, x, batch)
        wanted = {m.name: ops.logical_and(roles[m.name] == GENERATED, here[m.name]) for m in generable}
        # where nothing that is wanted is there, all that is there is wanted
        idle = ops.logical_not(ops.any(ops.stack(list(wanted.values())), axis=0))
        wanted = {name: ops.logical_or(flags, ops.logical_and(idle, here[name])) for name, flags in wanted.items()}
        t = self._draw_times(generable, wanted, x, batch)
        noisy, targets = {}, {}
        for m in generable:
            noise = self._noise(m, x, tokens[m.name])
            noisy[m.name], targets[m.name] = m.process.corrupt(tokens[m.name], t[m.name], noise)
        noisy.update({m.name: tokens[m.name] for m in modalities if m.adaln})
        seen = {}
        for m in modalities:
            used = roles[m.name] != ABSENT
            if not m.adaln:
                used = ops.logical_or(used, wanted[m.name])
            seen[m.name] = ops.logical_and(present[m.name], used[:, None])
        outputs = self.network(noisy, t, present=seen, training=training)
        return {
            m.name: {
                "output": outputs[m.name],
                "target": targets[m.name],
                "t": t[m.name],
                "wanted": ops.logical_and(present[m.name], wanted[m.name][:, None]),
            }
            for m in generable
        }

    def _present(self, modality, x, batch):
        """Which tokens an example really has: (b, n) bool."""
        flags = x.get("present", {}).get(modality.name)
        n = self.network.spaces[modality.name].num_tokens
        if flags is None:
            return ops.ones((batch, n), dtype="bool")
        flags = ops.cast(flags, "bool")
        flags = flags[:, None] if len(flags.shape) == 1 else ops.reshape(flags, (-1, n))
        return ops.broadcast_to(flags, (batch, n))

    def _draw_roles(self, modalities, x, batch):
        if "task" in x:
            task = ops.cast(x["task"], "int32")
        else:
            task = keras.random.randint((batch,), 0, len(self.tasks), seed=self.seed_generator)
        return {m.name: ops.take(self._roles(m.name), task, axis=0) for m in modalities}

    def _draw_times(self, generable, wanted, x, batch):
        """The noise level of each modality, 0 where it is not generated: {name: (b,)}."""
        if "t" in x:
            drawn = {m.name: ops.cast(x["t"][m.name], "float32") for m in generable}
        else:
            uniform = keras.random.uniform((len(generable) + 2, batch), seed=self.seed_generator)
            shared = self.times(stratified(uniform[0]))
            independent = uniform[1] < self.independent_times
            drawn = {
                m.name: ops.where(independent, self.times(uniform[2 + i]), shared) for i, m in enumerate(generable)
            }
        return {m.name: ops.where(wanted[m.name], drawn[m.name], 0.0) for m in generable}

    def _noise(self, modality, x, tokens):
        noise = x.get("noise", {}).get(modality.name)
        if noise is not None:
            return noise
        draw = keras.random.normal if modality.tokens == "latents" else keras.random.uniform
        return draw(ops.shape(tokens), dtype="float32", seed=self.seed_generator)

    def named_losses(self, x, y_pred):
        losses = {}
        for m in self.modalities:
            if m.name in y_pred:
                losses[m.name] = m.weight * _mean_loss(m, self.network.spaces[m.name], **y_pred[m.name])
        return losses

    def precompute(self, data, batch_size=100, verbose="auto"):
        """The tokens of every signal in a dict for `fit`, once, so that no step encodes: the same dict, with tokens.

        Args:
            data: dict by the modalities' names of signals on the host, arrays (n, ...) or lists of texts; other keys
                stay as they are.
            batch_size, verbose: of `predict`; a progress bar for each tokenizer with weights.

        Raises:
            ValueError: on a name that is no modality, signals that their tokenizer does not take, or of another number.
        """
        names = {m.name: m for m in self.modalities}
        unknown = sorted(set(data) - {*names, "present", "task", "t", "noise"})
        if unknown:
            raise ValueError(f"The modalities are {sorted(names)}. Received: {unknown}")
        sizes = {name: len(data[name]) for name in names if name in data}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Every modality needs a row for each example. Received: {sizes} rows")
        if not sizes:
            raise ValueError(f"There is none of the modalities {sorted(names)}. Received keys: {sorted(data)}")
        tokens = {}
        for name in sizes:
            show = verbose
            if verbose == "auto":
                show = 1
            tokens[name] = names[name].encode(data[name], batch_size, show)
        rest = {key: value for key, value in data.items() if key not in names}
        self._check_present(rest.get("present", {}), next(iter(sizes.values())))
        return {**tokens, **rest}

    def _check_present(self, present, rows):
        for name, flags in present.items():
            if name not in self.network.spaces:
                raise ValueError(f"The modalities are {sorted(self.network.spaces)}. Received: {name!r} in 'present'")
            flags = np.asarray(flags)
            n = self.network.spaces[name].num_tokens
            if flags.shape not in ((rows,), (rows, n)) or flags.dtype.kind != "b":
                raise ValueError(
                    f"'present' of {name!r} is bool of shape ({rows},) or ({rows}, {n}). Received: {flags.shape} "
                    f"{flags.dtype}"
                )

    def fit(self, x=None, *args, validation_data=None, **kwargs):
        if isinstance(validation_data, dict):
            validation_data = (validation_data,)
        if isinstance(validation_data, tuple):
            validation_data = (self._tokens_of(validation_data[0]), *validation_data[1:])
        return super().fit(self._tokens_of(x), *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(self._tokens_of(x), *args, **kwargs)

    def _tokens_of(self, x):
        return self.precompute(x) if isinstance(x, dict) else x

    def generator(self, samplers=None, num_steps=24, guidance=None, average=0):
        """The `MultimodalGenerator` of this model, with a copy of the network by moving average number `average`.

        Args:
            samplers, num_steps, guidance: see `MultimodalGenerator`.
            average: int, index into `ema_decays`.
        """
        network = averaged_copy(self, self.network, average)
        generator = MultimodalGenerator(network, self.modalities, self.tasks, samplers, num_steps, guidance)
        if self.compiled:
            generator.jit_compile = self.jit_compile
        return generator


def _mean_loss(modality, space, output, target, t, wanted):
    """The process's loss over the tokens `wanted` (b, n), for each example times what makes the batch's mean that over
    the examples that generate the modality: (b,)."""
    count = ops.sum(ops.cast(wanted, "float32"), axis=1)
    by_token = ops.reshape(wanted, (-1, *space.grid, *[1] * (len(space.shape) - len(space.grid))))
    for axis, size in enumerate(space.patch_size, 1):
        by_token = ops.repeat(by_token, size, axis=axis)
    if space.vocabulary is None:
        output, target = ops.where(by_token, output, 0.0), ops.where(by_token, target, 0.0)
    else:
        target = ops.where(by_token, target, -1)
    loss = modality.process.loss(output, target, t) * space.num_tokens / ops.maximum(count, 1.0)
    generating = ops.cast(count > 0, "float32")
    return loss * ops.cast(ops.shape(loss)[0], "float32") / ops.maximum(ops.sum(generating), 1.0)
