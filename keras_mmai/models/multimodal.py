"""What users `fit` on several modalities at once: any of them from any of them, and any may be missing."""

import keras
from keras import ops

from keras_mmai.distribution import STATE, sum_across_replicas
from keras_mmai.models.door import BatchDoor
from keras_mmai.models.generator import averaged_copy
from keras_mmai.models.modality import checked_modalities
from keras_mmai.models.multimodal_dit import MultimodalDiT
from keras_mmai.models.multimodal_generator import MultimodalGenerator
from keras_mmai.models.tasks import ABSENT, GENERATED, Draws, checked_tasks, tasks_without
from keras_mmai.serialization import register
from keras_mmai.training import TrainingModel


@register
class MultimodalDiffusionTransformer(TrainingModel):
    """One diffusion transformer for every task on its modalities.

    Each example of a training batch draws a task: some modalities are given (noise level 0), some are generated (each
    at a noise level t), the rest are absent. So the model learns every conditional, joint and marginal distribution
    at once. Of examples that lack a modality, it is absent whatever the task says; one that lacks all that its task
    wants generates instead all that it has and that some task wants.

    `fit` takes a dict with some of

    * the name of each modality: signals, or their tokens (`precompute`). Of arrays and lists of texts `fit` itself
      computes the tokens, once; of a tf.data.Dataset the tokenizers with weights do in every step, where values are not
      checked, and what a lossless tokenizer takes must be tokens, but for labels (b,);
    * "present": a dict of bool (b,), or (b, *grid) for each token, by name: what an example has. Without, all is. See
      `Modality.encode` for what the rest may hold;
    * "known": a dict of bool (b, *grid), by name: which tokens are known where their modality is generated, as in
      `MultimodalGenerator.generate`. Of a modality that is not in it they are drawn (`partly_known`);
    * "task" (b,) int32, the place in `tasks`; "t", a dict by name of noise levels (b,), or (b, *grid) for each token
      its own, as in diffusion forcing (Chen et al. 2024, arXiv:2407.01392), in [0, 1]; "noise", a dict by name, of the
      shape of the tokens, Gaussian for latents and uniform in [0, 1) for ids. They are drawn if they are absent; with
      "t" given, every token that is generated and not in "known" has that noise level.

    The losses are named as the modalities that tasks of a weight above 0 want: their `weight` times the mean of the
    process's loss over the examples that generate it; with a `sample_weight`, the mean by these weights, times the mean
    of the weights.

    Args:
        modalities: list of `Modality`.
        network: a `MultimodalDiT` of them; None is one of the default size.
        tasks: dict of (given, wanted) by name, tuples of names, that are trained and exported; None is `fillings`: all.
        task_weights: dict of float by name of a task: how often it is drawn, in proportion; those left out have 1.
        independent_times: float in [0, 1], the share of examples whose generated modalities have times of their own
            (Bao et al. 2023, UniDiffuser, arXiv:2303.06555); else they share one number u, of which `times` of each
            process makes its noise level.
        partly_known: float in [0, 1], for each modality of several tokens that is generated the share of examples in
            which some are known, at random places or from the beginning on: what inpainting and continuation ask for.
        ema_decays: see `TrainingModel`.
        seed: int or None.

    Raises:
        ValueError: on two modalities of one name, tasks or `task_weights` of unknown ones, a network of others, or
            shares out of range.
    """

    def __init__(
        self,
        modalities,
        network=None,
        tasks=None,
        task_weights=None,
        independent_times=1.0,
        partly_known=0.1,
        ema_decays=(0.999,),
        seed=None,
        **kwargs,
    ):
        modalities = checked_modalities(modalities, network)
        tasks, task_weights = checked_tasks(tasks, modalities), dict(task_weights or {})
        seed_generator = keras.random.SeedGenerator(seed)
        draws = Draws(tasks, task_weights, independent_times, partly_known, seed_generator)
        wanted = {name for _, want in draws.learned.values() for name in want}
        super().__init__([m.name for m in modalities if m.name in wanted], ema_decays, **kwargs)
        self.modalities = modalities
        self.network = MultimodalDiT(modalities) if network is None else network
        self.tasks = tasks
        self.task_weights = task_weights
        self.seed = seed
        self.seed_generator = seed_generator
        self._draws = draws
        self._door = BatchDoor(modalities, tasks, draws.learned)
        self.tokenizers = [m.tokenizer for m in modalities]  # so that their weights are saved
        self.build()

    @property
    def independent_times(self):
        return self._draws.independent_times

    @property
    def partly_known(self):
        return self._draws.partly_known

    def build(self, input_shape=None):
        if self.built:
            return
        # which modalities any training example has had: what was never seen can't be asked for
        self.seen = self.add_weight(shape=(len(self.modalities),), initializer="zeros", name="seen", **STATE)
        self.build_averages()
        self.built = True

    def call(self, x, training=False):
        self._door.check_keys(x)
        modalities = [m for m in self.modalities if m.name in x]
        generable = [m for m in modalities if not m.adaln]
        if not set(x) & set(self.trackers):
            raise ValueError(
                f"A batch needs one of {list(self.trackers)}, which tasks want. Received keys: {sorted(x)}"
            )
        tokens = {m.name: m.encode_batch(x[m.name]) for m in modalities}
        batch = ops.shape(tokens[generable[0].name])[0]
        present = {m.name: self._door.present(m.name, x, batch) for m in modalities}
        here = {name: ops.any(flags, axis=1) for name, flags in present.items()}
        task = ops.cast(x["task"], "int32") if "task" in x else self._draws.task(batch)
        roles = {m.name: self._draws.role(m.name, task) for m in modalities}
        wanted = {m.name: ops.logical_and(roles[m.name] == GENERATED, here[m.name]) for m in generable}
        # where nothing that is wanted is there, all that is there and that some task wants is wanted
        idle = ops.logical_not(ops.any(ops.stack(list(wanted.values())), axis=0))
        learnable = [name for name in wanted if name in self.trackers]
        wanted.update({name: ops.logical_or(wanted[name], ops.logical_and(idle, here[name])) for name in learnable})
        t, known = self._times_and_known(generable, wanted, x, batch)
        if training:
            self._see(here)

        noisy, targets, learned = self._noisy(generable, tokens, present, wanted, t, known, x)
        noisy.update({m.name: tokens[m.name] for m in modalities if m.adaln})
        shown = {}
        for m in modalities:
            used = roles[m.name] != ABSENT
            if not m.adaln:
                used = ops.logical_or(used, wanted[m.name])
            shown[m.name] = ops.logical_and(present[m.name], used[:, None])
        outputs = self.network(noisy, t, present=shown, known=known, training=training)
        return {
            m.name: {
                "output": outputs[m.name],
                "target": targets[m.name],
                "t": self._spread(m.name, t[m.name]),
                "wanted": learned[m.name],
            }
            for m in generable
        }

    def _noisy(self, generable, tokens, present, wanted, t, known, x):
        """By name: tokens at their noise levels, what is to be learned of them, and of which ones: (b, n) bool."""
        noisy, targets, learned = {}, {}, {}
        for m in generable:
            space = self.network.spaces[m.name]
            # what is absent may hold anything, and NaN would reach the gradient even at weight zero
            content = ops.where(space.spread(present[m.name]), tokens[m.name], ops.zeros_like(tokens[m.name]))
            noise = self._noise(m, x, content)
            noisy[m.name], targets[m.name] = m.process.corrupt(content, self._spread(m.name, t[m.name]), noise)
            learned[m.name] = ops.logical_and(present[m.name], wanted[m.name][:, None])
            if m.name in known:
                stays = space.spread(known[m.name])
                noisy[m.name] = ops.where(stays, ops.cast(content, noisy[m.name].dtype), noisy[m.name])
                learned[m.name] = ops.logical_and(learned[m.name], ops.logical_not(known[m.name]))
        return noisy, targets, learned

    def _spread(self, name, t):
        """Noise levels (b,) as they are; those of tokens, (b, n), as such that broadcast over what they hold."""
        return t if len(t.shape) == 1 else self.network.spaces[name].spread(t)

    def _see(self, here):
        """Remembers which modalities some training example had."""
        found = [ops.any(here[m.name]) if m.name in here else False for m in self.modalities]
        found = ops.stack([ops.cast(flag, "float32") for flag in found])
        self.seen.assign(ops.maximum(self.seen, sum_across_replicas(found) > 0))

    def _times_and_known(self, generable, wanted, x, batch):
        """The noise level of each modality, 0 where it is not generated, and the tokens of some that are known."""
        if "t" in x:
            levels, known = {m.name: self._door.levels(m.name, x["t"]) for m in generable}, {}
        else:
            levels = self._draws.times(generable, batch)
            lengths = {m.name: self.network.spaces[m.name].num_tokens for m in generable if self.partly_known}
            known = {name: self._draws.known(n, wanted[name]) for name, n in lengths.items() if n > 1}
        for name, flags in x.get("known", {}).items():
            if name in wanted:
                known[name] = ops.logical_and(self._door.flags("known", name, flags), wanted[name][:, None])
        own = {name: len(level.shape) > 1 for name, level in levels.items()}
        return {
            name: ops.where(flags[:, None] if own[name] else flags, levels[name], 0.0) for name, flags in wanted.items()
        }, known

    def _noise(self, modality, x, tokens):
        noise = x.get("noise", {}).get(modality.name)
        if noise is not None:
            return noise
        draw = keras.random.normal if modality.tokens == "latents" else keras.random.uniform
        return draw(ops.shape(tokens), dtype="float32", seed=self.seed_generator)

    def named_losses(self, x, y_pred):
        losses = {}
        for m in self.modalities:
            if m.name in y_pred:  # also where nothing is wanted: TensorFlow warns of weights without a gradient
                loss, generating = m.mean_loss(**y_pred[m.name])
                losses[m.name] = m.weight * loss, generating
        return losses

    def precompute(self, data, batch_size=100, verbose="auto"):
        """The tokens of every signal in a dict for `fit`, once, so that no step encodes: the same dict, with tokens.

        Args:
            data: dict by the modalities' names of signals on the host, arrays (n, ...) or lists of texts; other keys
                stay as they are. Rows that "present" says are absent may hold anything, such as NaN or None.
            batch_size, verbose: of `predict`; a progress bar for each tokenizer with weights.

        Raises:
            ValueError: on a name that is no modality, signals that their tokenizer does not take, rows of different
                number, or "present", "known" and "task" of another form.
        """
        others = self._door.others(data)
        tokens = {}
        for m in self.modalities:
            if m.name in data:
                present = others.get("present", {}).get(m.name)
                tokens[m.name] = m.encode(data[m.name], batch_size, verbose, present)
                m.warn_of(tokens[m.name], self._door.present_on_host(m.name, others, len(tokens[m.name])))
        return {**tokens, **others}

    def check_values(self, x):
        """A batch of tokens, or of signals of tokenizers with weights."""
        self._door.check(x)
        for m in self.modalities:
            if m.name in x:
                m.check_batch(x[m.name], self._door.present_on_host(m.name, x, len(x[m.name])))

    def fit(self, x=None, *args, validation_data=None, verbose="auto", **kwargs):
        if isinstance(validation_data, dict):
            validation_data = (validation_data,)
        if isinstance(validation_data, tuple | list):
            validation_data = (self._tokens_of(validation_data[0], verbose), *validation_data[1:])
        x = self._tokens_of(x, verbose)
        return super().fit(x, *args, validation_data=validation_data, verbose=verbose, **kwargs)

    def evaluate(self, x=None, *args, verbose="auto", **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):  # by which Keras says that `fit` has had it
            x = self._tokens_of(x, verbose)
        return super().evaluate(x, *args, verbose=verbose, **kwargs)

    def _check_first(self, x):
        if not isinstance(x, dict):  # what `precompute` gives is checked
            super()._check_first(x)

    def _tokens_of(self, x, verbose):
        if not isinstance(x, dict):
            return x
        if not set(x) & set(self.trackers):
            raise ValueError(f"There is none of {list(self.trackers)}, which tasks want. Received keys: {sorted(x)}")
        return self.precompute(x, verbose=verbose)

    def generator(self, samplers=None, num_steps=24, guidance=None, order=None, average=0, tasks=None):
        """The `MultimodalGenerator` of this model, with a copy of the network by moving average number `average`.

        Args:
            samplers, num_steps, guidance, order: see `MultimodalGenerator`.
            average: int, index into `ema_decays`.
            tasks: list of names of the model's tasks that the generator exports, and whose modalities can be given and
                wanted; what `order` puts before others must be among what they want. None: all that are learned,
                without the modalities that no training example had.

        Raises:
            ValueError: on no task, or one that is not learned, or where all want what no training example had.
        """
        seen = ops.convert_to_numpy(self.seen) > 0
        unseen = [m.name for m, flag in zip(self.modalities, seen) if seen.any() and not flag]
        learned = tasks_without(self._draws.learned, unseen)
        if not learned:
            raise ValueError(f"Every task wants only modalities that no training example had: {unseen}")
        unknown = sorted(set(tasks or ()) - set(learned))
        if unknown or isinstance(tasks, str) or (tasks is not None and not len(tasks)):
            raise ValueError(f"`tasks` are some of {sorted(learned)}. Received: {tasks}")
        network = averaged_copy(self, self.network, average)
        tasks = learned if tasks is None else {name: learned[name] for name in tasks}
        generator = MultimodalGenerator(network, self.modalities, tasks, samplers, num_steps, guidance, order, unseen)
        if self.compiled:
            generator.jit_compile = self.jit_compile
        return generator
