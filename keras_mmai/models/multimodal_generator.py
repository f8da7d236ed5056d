"""Any modalities from any others: sampler, guidance and tokenizers in one compiled call for each question."""

import functools

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import Euler, MaskedAncestral, MaskedSampler, Sampler
from keras_mmai.models.programs import Classify, Decode, Embed, Fill, Score
from keras_mmai.models.tasks import checked_tasks
from keras_mmai.noise import row_seeds
from keras_mmai.serialization import register
from keras_mmai.serving import Servable


@register
class MultimodalGenerator(Servable, keras.Model):
    """Generates any modalities given any others, tells how likely what is given is, and embeds it.

    Each task is compiled once, at its first use. A row's seed alone decides its noise, whatever batch it is in.

    Args:
        network: a `MultimodalDiT`.
        modalities: list of its `Modality`.
        tasks: dict of (given, wanted) by name, the signatures of `export`; None is all.
        samplers: dict of a `Sampler` by modality: a `MaskedSampler` for ids, one of one evaluation for latents, such as
            `Euler`; what is left out has `MaskedAncestral()` or `Euler()`.
        num_steps: int, steps of the samplers.
        guidance: dict of float by modality, the scale of classifier-free guidance by it where it is given; 1 is none.
        unseen: names of modalities that no training example had: they can't be asked for, nor given.

    Raises:
        ValueError: on tasks, samplers or guidance of unknown modalities, or a sampler of the other kind.
    """

    def __init__(
        self, network, modalities, tasks=None, samplers=None, num_steps=24, guidance=None, unseen=(), **kwargs
    ):
        super().__init__(**kwargs)
        self.autocast = False
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1. Received: {num_steps}")
        self.network = network
        self.modalities = list(modalities)
        self.tasks = checked_tasks(tasks, self.modalities)
        self.samplers = dict(samplers or {})
        self.num_steps = num_steps
        self.guidance = dict(guidance or {})
        self.unseen = tuple(unseen)
        self._by_name = {m.name: m for m in self.modalities}
        self._program = functools.cache(self._make_program)
        self.tokenizers = [m.tokenizer for m in self.modalities]  # so that their weights are saved
        self._check_names(self.samplers, "samplers")
        self._check_names(self.guidance, "guidance")
        for name, sampler in self.samplers.items():
            masked = self._by_name[name].tokens == "codes"
            if not isinstance(sampler, Sampler) or isinstance(sampler, MaskedSampler) != masked:
                kind = "a `MaskedSampler`" if masked else "a `Sampler` of latents"
                raise ValueError(f"`samplers` of {name!r} must be {kind}. Received: {sampler!r}")
            if sampler.evaluations > 1:
                raise ValueError(f"{sampler} needs more than one evaluation of a step: take `Euler()` or `DDIM()`.")
        self.built = True

    def get_build_config(self):
        return None

    def _check_names(self, names, argument):
        if isinstance(names, str):
            raise ValueError(f"`{argument}` is a list or dict of names. Received: {names!r}")
        unknown = sorted(set(names) - set(self._by_name))
        if unknown:
            raise ValueError(f"`{argument}`: the modalities are {sorted(self._by_name)}. Received: {unknown}")

    def _check_learned(self, names, place, role):
        """Of modalities that some task of the training has in a role: given or wanted."""
        learned = {name for task in self.tasks.values() for name in task[place]}
        for name in names:
            if name in self.unseen:
                raise ValueError(f"No training example had {name!r}: it can't be {role}.")
            if name not in learned:
                raise ValueError(f"No task has {name!r} {role}: it was not learned. The tasks: {self.tasks}")

    def sampler_of(self, name):
        default = MaskedAncestral() if self._by_name[name].tokens == "codes" else Euler()
        return self.samplers.get(name, default)

    # What users call, with signals of the host

    def generate(
        self,
        given=None,
        want=None,
        known=None,
        present=None,
        num_samples=None,
        steps=None,
        guidance=None,
        seed=0,
        batch_size=100,
        verbose=0,
    ):
        """Generates the wanted modalities, given others: a dict of signals (n, ...) by name.

        Args:
            given: dict by modality of signals (n, ...) or their tokens; None: nothing.
            want: names of modalities; None: all that are not given.
            known: dict by modality of bool (n, *grid) or (*grid,) over its tokens: those of a modality that is given
                and wanted which stay as they are; the others are generated. For inpainting and continuation.
            present: dict by modality of bool (n,) or (n, *grid): which tokens of what is given are there; the others
                are absent, whatever they hold. None: all.
            num_samples: int, where nothing is given; else there is one for each row given.
            steps: int; None is `num_steps`.
            guidance: float for all that is given and not wanted, or a dict by modality; None is that of the
                constructor.
            seed: int, or int32 (n, 2). Row i depends on (seed, i) and what it is given alone.
            batch_size, verbose: of `predict`.

        Raises:
            ValueError: on an unknown modality, nothing wanted, one that is given and wanted without `known`, rows of
                different number, guidance by what is not given, or signals that their tokenizer does not take.
        """
        given, known = dict(given or {}), dict(known or {})
        for names, argument in ((given, "given"), (want or (), "want"), (known, "known")):
            self._check_names(names, argument)
        want = (
            tuple(m.name for m in self.modalities if m.name in want)
            if want is not None
            else tuple(m.name for m in self.modalities if (m.name not in given or m.name in known) and not m.adaln)
        )
        if not want:
            raise ValueError("Nothing is wanted: name in `want` at least one modality that is generated.")
        if any(self._by_name[name].adaln for name in want):
            raise ValueError(f"A condition (`adaln`) is only given. Received: want={want}")
        if set(known) != set(given) & set(want):
            raise ValueError(
                "`known` is for exactly what is both given and wanted: it says which tokens stay. Received: "
                f"given={sorted(given)}, want={sorted(want)}, known={sorted(known)}"
            )
        if steps is not None and steps < 1:
            raise ValueError(f"`steps` must be at least 1. Received: {steps}")
        self._check_learned(want, 1, "wanted")
        self._check_learned(set(given) - set(want), 0, "given")
        scales = self._scales(guidance, [name for name in given if name not in want])
        inputs, rows = self._inputs(given, present, num_samples, seed)
        if known:
            inputs["known"] = {name: self._known(name, flags, rows) for name, flags in known.items()}
        if scales:
            inputs["guidance"] = {name: np.full(rows, scale, "float32") for name, scale in scales.items()}
        fill = self._program(Fill, want, self.num_steps if steps is None else steps)
        out = fill.predict(inputs, batch_size=batch_size, verbose=verbose)
        return {
            name: self._by_name[name].tokenizer.decode(out[name]) if self._by_name[name].lossless else out[name]
            for name in want
        }

    def decode(self, tokens, batch_size=100, verbose=0):
        """Tokens of the host, a dict (n, ...) by modality, to signals, as `generate` gives them."""
        self._check_names(tokens, "tokens")
        signals = {}
        for name, values in tokens.items():
            modality = self._by_name[name]
            if modality.lossless:
                signals[name] = modality.tokenizer.decode(values)
            else:
                program = self._program(Decode, name)
                signals[name] = program.predict(values, batch_size=batch_size, verbose=verbose)
        return signals

    def classify(self, given, target, present=None, batch_size=100, verbose=0):
        """Probabilities of the ids of `target`, a modality of one id, given others: float32 (n, vocabulary).

        `given` and `present`: as those of `generate`.
        """
        self._check_names({*given, target}, "given and target")
        space = self.network.spaces[target]
        if space.vocabulary is None or space.num_tokens * space.num_codes > 1 or space.adaln:
            raise ValueError(f"`target` must be a modality of one id, such as a label. Received: {target!r}")
        if target in given:
            raise ValueError(f"`target` is not given. Received: {target!r} in `given`")
        self._check_learned([target], 1, "wanted")
        self._check_learned(given, 0, "given")
        inputs, _ = self._inputs(self._not_empty(given), present)
        return self._program(Classify, target).predict(inputs, batch_size=batch_size, verbose=verbose)

    def embed(self, given, present=None, batch_size=100, verbose=0):
        """The mean of the last block's tokens of what is given: float32 (n, hidden_dim).

        `given` and `present`: as those of `generate`.
        """
        self._check_names(given, "given")
        inputs, _ = self._inputs(self._not_empty(given), present)
        return self._program(Embed).predict(inputs, batch_size=batch_size, verbose=verbose)

    def score(self, signals, given=None, present=None, num_draws=64, seed=0, batch_size=100, verbose=0):
        """An upper bound of -log p(signals | given) in nats, each example's: equation (6) of masked diffusion.

        Args:
            signals: dict of one modality of ids, (n, ...).
            given, present: as those of `generate`; of the signals, too: tokens that are not present have no likelihood.
            num_draws: int, noise levels for each example, one in each of as many strata.

        Returns:
            dict: "bound" and its "standard_error", float32 (n,) each, the latter as if the draws were independent:
            strata make it smaller. The mean over a data set has the standard error of the mean of "bound".

        Raises:
            ValueError: on latents, which have no such bound, or more than one modality.
        """
        given = dict(given or {})
        self._check_names({*signals, *given}, "signals and given")
        if len(signals) != 1 or set(signals) & set(given):
            raise ValueError(f"`signals` is one modality that is not given. Received: {sorted(signals)}")
        (name,) = signals
        if self._by_name[name].tokens != "codes" or self._by_name[name].adaln:
            raise ValueError(f"{name!r} is not generated as ids: its likelihood has no such bound.")
        if num_draws < 2:
            raise ValueError(f"`num_draws` must be at least 2. Received: {num_draws}")
        self._check_learned(signals, 1, "wanted")
        self._check_learned(given, 0, "given")
        inputs, _ = self._inputs({**given, **signals}, present, seed=seed)
        return self._program(Score, name, num_draws).predict(inputs, batch_size=batch_size, verbose=verbose)

    @staticmethod
    def _not_empty(given):
        if not given:
            raise ValueError("Here nothing is given: name at least one modality with its signals in `given`.")
        return given

    def _make_program(self, kind, *arguments):
        program = kind(self, *arguments)
        program.jit_compile = self.jit_compile
        return program

    def _inputs(self, given, present=None, num_samples=None, seed=None):
        """What a program takes, checked, and how many rows it has."""
        tokens = {name: self._by_name[name].encode(signals) for name, signals in given.items()}
        sizes = {name: len(t) for name, t in tokens.items()}
        if num_samples is not None:
            sizes["num_samples"] = num_samples
        if len(set(sizes.values())) > 1:
            raise ValueError(f"What is given needs one row for each sample. Received: {sizes} rows")
        rows = next(iter(sizes.values()), 1)
        if rows < 1:
            raise ValueError(f"There is nothing to do: {sizes} rows.")
        inputs = {"given": tokens}
        absent = sorted(set(present or {}) - set(given))
        if absent:
            raise ValueError(f"`present` is of what is given, {sorted(given)}. Received: {absent}")
        if present:
            inputs["present"] = {name: self._present(name, flags, rows) for name, flags in present.items()}
        if seed is not None:
            inputs["seed"] = ops.convert_to_numpy(row_seeds(seed, rows))
        return inputs, rows

    def _scales(self, guidance, given):
        """{name: scale} of what guides."""
        if guidance is None:
            return {name: scale for name, scale in self.guidance.items() if name in given and scale != 1}
        if not isinstance(guidance, dict):
            guidance = dict.fromkeys(given, float(guidance))
        self._check_names(guidance, "guidance")
        absent = sorted(set(guidance) - set(given))
        if absent:
            raise ValueError(
                f"`guidance` is by what is given and not wanted, {sorted(given)}. Received: {absent}, which are absent"
            )
        return {name: scale for name, scale in guidance.items() if scale != 1}

    def _known(self, name, flags, rows):
        """Bool flags of tokens, (n, tokens)."""
        grid, flags = self.network.spaces[name].grid, np.asarray(flags)
        if flags.shape not in (grid, (rows, *grid)) or flags.dtype.kind != "b":
            raise ValueError(
                f"`known` of {name!r} is bool of shape {grid} or {(rows, *grid)}. Received: {flags.shape} {flags.dtype}"
            )
        return np.broadcast_to(flags, (rows, *grid)).reshape(rows, -1)

    def _present(self, name, flags, rows):
        """Bool flags of tokens, (n, tokens)."""
        flags, space = np.asarray(flags), self.network.spaces[name]
        if len(flags) != rows:
            raise ValueError(f"`present` of {name!r} needs a row for each of {rows}. Received: shape {flags.shape}")
        flags = ops.convert_to_numpy(space.flags(flags, f"`present` of {name!r}"))
        return np.broadcast_to(flags, (rows, space.num_tokens))

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})}: one for each task, of "seed" and what is given.

        A text whose tokenizer TensorFlow can't run is ids there, see `Modality.serving`.
        """
        signatures = {}
        for task, (given, want) in self.tasks.items():
            arguments, encoders = {"seed": ((2,), "int32")}, {}
            for name in given:
                encoders[name], arguments[name] = self._by_name[name].serving("encode")
            fill = Fill(self, want, self.num_steps)

            def run(seed, _fill=fill, _encoders=encoders, _given=given, **signals):
                inputs = {"seed": seed, "given": {name: encode(signals[name]) for name, encode in _encoders.items()}}
                scales = {name: scale for name, scale in self.guidance.items() if name in _given and scale != 1}
                if scales:
                    ones = ops.ones_like(ops.cast(seed[:, 0], "float32"))
                    inputs["guidance"] = {name: scale * ones for name, scale in scales.items()}
                out = _fill(inputs)
                return {
                    name: self._by_name[name].serving("decode")[0](x) if self._by_name[name].lossless else x
                    for name, x in out.items()
                }

            signatures[task] = (run, arguments)
        return signatures
