"""Any modalities from any others, as a model: its calls hold the sampler, the guidance and the tokenizers."""

import functools

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import (
    Denoiser,
    Euler,
    MaskedAncestral,
    MaskedSampler,
    Sampler,
    normal,
    uniform,
    uniform_times,
)
from keras_mmai.models.tasks import check_tasks, fillings
from keras_mmai.noise import row_seeds, split
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

    Raises:
        ValueError: on tasks, samplers or guidance of unknown modalities, or a sampler of the other kind.
    """

    def __init__(self, network, modalities, tasks=None, samplers=None, num_steps=24, guidance=None, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1. Received: {num_steps}")
        self.network = network
        self.modalities = list(modalities)
        self.tasks = fillings(self.modalities) if tasks is None else {k: tuple(map(tuple, v)) for k, v in tasks.items()}
        check_tasks(self.tasks, self.modalities)
        self.samplers = dict(samplers or {})
        self.num_steps = num_steps
        self.guidance = dict(guidance or {})
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
        unknown = sorted(set(names) - set(self._by_name))
        if unknown:
            raise ValueError(f"`{argument}`: the modalities are {sorted(self._by_name)}. Received: {unknown}")

    def sampler_of(self, name):
        default = MaskedAncestral() if self._by_name[name].tokens == "codes" else Euler()
        return self.samplers.get(name, default)

    # What users call, with signals of the host

    def generate(
        self,
        given=None,
        want=None,
        known=None,
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
            num_samples: int, where nothing is given; else there is one for each row given.
            steps: int; None is `num_steps`.
            guidance: float for all that is given, or a dict by modality; None is that of the constructor.
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
        scales = self._scales(guidance, given)
        tokens, rows = self._tokens(given, num_samples)
        inputs = {"seed": ops.convert_to_numpy(row_seeds(seed, rows)), "given": tokens}
        if known:
            inputs["known"] = {name: self._known(name, flags, rows) for name, flags in known.items()}
        if scales:
            inputs["guidance"] = {name: np.full(rows, scale, "float32") for name, scale in scales.items()}
        filling = self._program(_Filling, want, self.num_steps if steps is None else steps)
        out = filling.predict(inputs, batch_size=batch_size, verbose=verbose)
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
                program = self._program(_Decoder, name)
                signals[name] = program.predict(values, batch_size=batch_size, verbose=verbose)
        return signals

    def classify(self, given, target, batch_size=100, verbose=0):
        """Probabilities of the ids of `target`, a modality of one id, given others: float32 (n, vocabulary)."""
        self._check_names({*given, target}, "given and target")
        space = self.network.spaces[target]
        if space.vocabulary is None or space.num_tokens * space.num_codes > 1 or space.adaln:
            raise ValueError(f"`target` must be a modality of one id, such as a label. Received: {target!r}")
        if target in given:
            raise ValueError(f"`target` is not given. Received: {target!r} in `given`")
        tokens, _ = self._tokens(self._not_empty(given), None)
        return self._program(_Classifier, target).predict({"given": tokens}, batch_size=batch_size, verbose=verbose)

    def embed(self, given, batch_size=100, verbose=0):
        """The mean of the last block's tokens of what is given: float32 (n, hidden_dim)."""
        self._check_names(given, "given")
        tokens, _ = self._tokens(self._not_empty(given), None)
        return self._program(_Embedder).predict({"given": tokens}, batch_size=batch_size, verbose=verbose)

    def score(self, signals, given=None, num_draws=64, seed=0, batch_size=100, verbose=0):
        """An upper bound of -log p(signals | given) in nats, each example's: equation (6) of masked diffusion.

        Args:
            signals: dict of one modality of ids, (n, ...).
            given: dict of others.
            num_draws: int, noise levels for each example, one in each of as many strata.

        Returns:
            dict: "bound" and its "standard_error", float32 (n,) each. The mean over a data set has the standard error
            of the mean of "bound".

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
        tokens, rows = self._tokens({**given, **signals}, None)
        inputs = {"seed": ops.convert_to_numpy(row_seeds(seed, rows)), "given": tokens}
        return self._program(_Scorer, name, num_draws).predict(inputs, batch_size=batch_size, verbose=verbose)

    @staticmethod
    def _not_empty(given):
        if not given:
            raise ValueError("Here nothing is given: name at least one modality with its signals in `given`.")
        return given

    def _make_program(self, kind, *arguments):
        program = kind(self, *arguments)
        program.jit_compile = self.jit_compile
        return program

    def _tokens(self, given, num_samples):
        tokens = {name: self._by_name[name].encode(signals) for name, signals in given.items()}
        sizes = {name: len(t) for name, t in tokens.items()}
        if num_samples is not None:
            sizes["num_samples"] = num_samples
        if len(set(sizes.values())) > 1:
            raise ValueError(f"What is given needs one row for each sample. Received: {sizes} rows")
        rows = next(iter(sizes.values()), 1)
        if rows < 1:
            raise ValueError(f"There is nothing to do: {sizes} rows.")
        return tokens, rows

    def _scales(self, guidance, given):
        """{name: scale} of what guides."""
        if guidance is None:
            return {name: scale for name, scale in self.guidance.items() if name in given and scale != 1}
        if not isinstance(guidance, dict):
            guidance = dict.fromkeys(given, guidance)
        self._check_names(guidance, "guidance")
        absent = sorted(set(guidance) - set(given))
        if absent:
            raise ValueError(f"`guidance` is by what is given, {sorted(given)}. Received: {absent}, which are absent")
        return {name: scale for name, scale in guidance.items() if scale != 1}

    def _known(self, name, flags, rows):
        space = self.network.spaces[name]
        flags = np.asarray(flags)
        if flags.shape not in (space.grid, (rows, *space.grid)) or flags.dtype.kind != "b":
            raise ValueError(
                f"`known` of {name!r} is bool of shape {space.grid} or {(rows, *space.grid)}. Received: {flags.shape} "
                f"{flags.dtype}"
            )
        return np.broadcast_to(flags, (rows, *space.grid)).reshape(rows, -1)

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})}: one for each task, of "seed" and what is given."""
        signatures = {}
        for task, (given, want) in self.tasks.items():
            arguments, encoders = {"seed": ((2,), "int32")}, {}
            for name in given:
                function, (spec,) = _serving(self._by_name[name], "encode")
                arguments[name], encoders[name] = spec, function
            filling = _Filling(self, want, self.num_steps)

            def run(seed, _filling=filling, _encoders=encoders, _given=given, **signals):
                inputs = {"seed": seed, "given": {name: encode(signals[name]) for name, encode in _encoders.items()}}
                scales = {name: scale for name, scale in self.guidance.items() if name in _given and scale != 1}
                if scales:
                    ones = ops.ones_like(ops.cast(seed[:, 0], "float32"))
                    inputs["guidance"] = {name: scale * ones for name, scale in scales.items()}
                out = _filling(inputs)
                return {
                    name: _serving(self._by_name[name], "decode")[0](x) if self._by_name[name].lossless else x
                    for name, x in out.items()
                }

            signatures[task] = (run, arguments)
        return signatures


def _serving(modality, direction):
    """The function of one tensor that a SavedModel encodes or decodes by, and what it takes: [(shape, dtype)]."""
    if direction == "encode" and not modality.lossless:
        tokenizer = modality.tokenizer
        return (lambda x: tokenizer.encode(x, tokens=modality.tokens)), [(tokenizer.input_shape, "float32")]
    function, arguments = modality.tokenizer.serving_signatures()[direction]
    ((name, spec),) = arguments.items()
    return (lambda x: next(iter(function(**{name: x}).values()))), [spec]


class _Program(keras.Model):
    """A compiled call of a generator, which owns the weights."""

    def __init__(self, generator):
        super().__init__(name="program")  # a scope of TensorFlow has no leading underscore
        self.autocast = False
        self.network = generator.network
        self.modalities = {m.name: m for m in generator.modalities}
        self.tokenizers = [m.tokenizer for m in generator.modalities]
        self.built = True

    def at_rest(self, given):
        """The times of what is given."""
        rows = ops.shape(next(iter(given.values())))[0]
        return {name: ops.zeros((rows,)) for name in given if not self.modalities[name].adaln}


class _Embedder(_Program):
    def call(self, inputs):
        return self.network.features(inputs["given"], self.at_rest(inputs["given"]))


class _Decoder(_Program):
    def __init__(self, generator, name):
        super().__init__(generator)
        self.tokenizer = self.modalities[name].tokenizer

    def call(self, tokens):
        return self.tokenizer.decode(tokens)


class _Classifier(_Program):
    def __init__(self, generator, target):
        super().__init__(generator)
        self.target = target

    def call(self, inputs):
        given, process = inputs["given"], self.modalities[self.target].process
        rows = ops.shape(next(iter(given.values())))[0]
        masks = ops.full((rows, *self.modalities[self.target].token_shape), process.vocabulary, dtype="int32")
        times = {**self.at_rest(given), self.target: ops.ones((rows,))}
        logits = self.network({**given, self.target: masks}, times)[self.target]
        return ops.softmax(ops.reshape(logits, (-1, process.vocabulary)), axis=-1)


class _Scorer(_Program):
    def __init__(self, generator, target, num_draws):
        super().__init__(generator)
        self.target, self.num_draws = target, num_draws

    def call(self, inputs):
        modality = self.modalities[self.target]
        x, seed, n = inputs["given"][self.target], inputs["seed"], self.num_draws
        numbers = uniform(seed, (n,))
        count = int(np.prod(modality.token_shape))

        def one(total, i):
            t = modality.process.times((ops.cast(i, "float32") + ops.take(numbers, i, axis=1)) / n)
            x_t, target = modality.process.corrupt(x, t, uniform(seed, modality.token_shape, stream=i + 1))
            times = {**self.at_rest(inputs["given"]), self.target: t}
            output = self.network({**inputs["given"], self.target: x_t}, times)[self.target]
            loss = count * modality.process.loss(output, target, t)
            return (total[0] + loss, total[1] + ops.square(loss))

        zeros = ops.zeros((ops.shape(x)[0],))
        total, squares = ops.fori_loop(0, n, lambda i, total: one(total, i), (zeros, zeros))
        mean = total / n
        deviation = ops.sqrt(ops.maximum(squares / n - ops.square(mean), 0.0) / (n - 1))
        return {"bound": mean, "standard_error": deviation}


class _Filling(_Program):
    """Noise to the wanted modalities, in one loop over all of them."""

    def __init__(self, generator, want, num_steps):
        super().__init__(generator)
        self.want = want
        self.samplers = {name: generator.sampler_of(name) for name in want}
        self.steps = uniform_times(num_steps)

    def call(self, inputs):
        seed, given = inputs["seed"], inputs["given"]
        known, scales = inputs.get("known", {}), inputs.get("guidance", {})
        rows = ops.shape(seed)[0]
        seeds = split(seed, len(self.modalities))
        own = {name: seeds[:, list(self.modalities).index(name)] for name in self.want}
        stay = {name: self._by_position(name, flags) for name, flags in known.items()}
        context = {name: tokens for name, tokens in given.items() if name not in self.want}

        def keep(name, x):
            return ops.where(stay[name], ops.cast(given[name], x.dtype), x) if name in stay else x

        start = [keep(name, self._prior(name, own[name])) for name in self.want]
        times = ops.convert_to_tensor(self.steps)

        def advance(i, states):
            i = ops.cast(i, "int32")
            t, s = ops.take(times, i, axis=0), ops.take(times, i + 1, axis=0)
            states = dict(zip(self.want, states))
            levels = {**self.at_rest({**context, **states}), **{name: t * ops.ones((rows,)) for name in self.want}}
            outputs = self._guided({**context, **states}, levels, known, scales)
            after = []
            for name, x in states.items():
                process, sampler = self.modalities[name].process, self.samplers[name]
                predict = Denoiser(process, lambda x_t, t, output=outputs[name]: output)
                noise = self._step_noise(name, own[name], i) if sampler.stochastic else None
                after.append(keep(name, sampler.step(predict, x, t, s, noise)))
            return after

        states = ops.fori_loop(0, len(self.steps) - 1, advance, start)
        out = {}
        for name, x in zip(self.want, states):
            modality = self.modalities[name]
            out[name] = x if modality.lossless else modality.tokenizer.decode(x)
        return out

    def _prior(self, name, seed):
        modality = self.modalities[name]
        noise = normal(seed, modality.token_shape) if modality.tokens == "latents" else None
        if noise is None:
            noise = ops.zeros((ops.shape(seed)[0], *modality.token_shape))
        return modality.process.prior(noise)

    def _step_noise(self, name, seed, i):
        shape = self.modalities[name].token_shape
        if self.modalities[name].tokens == "latents":
            return normal(seed, shape, stream=i + 1)
        return uniform(seed, (*shape, 2), stream=i + 1)

    def _by_position(self, name, flags):
        """Flags of tokens (b, n) as flags of what they hold, which broadcast over (b, *shape)."""
        space = self.network.spaces[name]
        flags = ops.reshape(flags, (-1, *space.grid, *[1] * (len(space.shape) - len(space.grid))))
        for axis, size in enumerate(space.patch_size, 1):
            flags = ops.repeat(flags, size, axis=axis)
        return flags

    def _guided(self, tokens, levels, known, scales):
        """output + sum of (scale - 1) (output - output without what guides), in one pass of the network."""
        if not scales:
            return self.network(tokens, levels, known=known)
        copies = 1 + len(scales)

        def repeat(x):
            return ops.concatenate([x] * copies, axis=0)

        rows = ops.shape(next(iter(levels.values())))[0]
        here, gone = ops.ones((rows,), dtype="bool"), ops.zeros((rows,), dtype="bool")
        present = {
            name: ops.concatenate([here, *[gone if name == other else here for other in scales]]) for name in scales
        }
        outputs = self.network(
            keras.tree.map_structure(repeat, tokens),
            keras.tree.map_structure(repeat, levels),
            present=present,
            known=keras.tree.map_structure(repeat, known),
        )
        guided = {}
        for name in self.want:
            whole, *without = ops.split(outputs[name], copies, axis=0)
            total = whole
            for scale, other in zip(scales.values(), without):
                scale = ops.reshape(scale, (-1, *[1] * (len(whole.shape) - 1)))
                total = total + (scale - 1.0) * (whole - other)
            guided[name] = total
        return guided
