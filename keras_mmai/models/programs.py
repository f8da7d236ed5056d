"""What a `MultimodalGenerator` runs: one compiled call for each kind of question.

Each takes a dict: "given", tokens (b, *shape) by modality; "present", which of them are there, bool (b, n); and what it
says itself.
"""

import keras
from keras import ops

from keras_mmai.diffusion import Denoiser, UniformTimes, normal, uniform, uniform_times
from keras_mmai.distribution import UntunedData
from keras_mmai.noise import split

UNIFORM = UniformTimes()  # by which equation (6) is a bound, whatever the training drew


class Program(UntunedData, keras.Model):
    """A compiled call of a generator, which owns the weights."""

    def __init__(self, generator):
        super().__init__()
        self.autocast = False
        self.network = generator.network
        self.modalities = {m.name: m for m in generator.modalities}
        self.tokenizers = [m.tokenizer for m in generator.modalities]
        self.built = True

    def at_rest(self, given):
        """The times of what is given."""
        rows = ops.shape(next(iter(given.values())))[0]
        return {name: ops.zeros((rows,)) for name in given if not self.modalities[name].adaln}

    def noisy(self, inputs, t, stream=0):
        """The tokens with noise on those of the modalities in `t`, {name: (b,)}; the times of all; the targets."""
        tokens, targets = dict(inputs["given"]), {}
        seeds = split(inputs["seed"], len(self.modalities))
        for place, (name, modality) in enumerate(self.modalities.items()):
            if name in t:
                draw = normal if modality.tokens == "latents" else uniform
                noise = draw(seeds[:, place], modality.token_shape, stream=stream)
                tokens[name], targets[name] = modality.process.corrupt(tokens[name], t[name], noise)
        return tokens, {**self.at_rest(tokens), **t}, targets

    def losses(self, inputs, t, stream=0):
        """Each example's mean loss of a present token of the modalities in `t`, given the others: {name: (b,)}."""
        tokens, times, targets = self.noisy(inputs, t, stream)
        present = inputs.get("present", {})
        outputs = self.network(tokens, times, present)
        losses = {}
        for name, target in targets.items():
            shape = (ops.shape(target)[0], self.network.spaces[name].num_tokens)
            wanted = present[name] if name in present else ops.ones(shape, dtype="bool")
            losses[name], _ = self.modalities[name].losses(outputs[name], target, t[name], wanted)
        return losses


class Embed(Program):
    def call(self, inputs):
        return self.network.features(inputs["given"], self.at_rest(inputs["given"]), inputs.get("present"))


class Decode(Program):
    def __init__(self, generator, name):
        super().__init__(generator)
        self.tokenizer = self.modalities[name].tokenizer

    def call(self, tokens):
        return self.tokenizer.decode(tokens)


class Classify(Program):
    def __init__(self, generator, target):
        super().__init__(generator)
        self.target = target

    def call(self, inputs):
        given, process = inputs["given"], self.modalities[self.target].process
        rows = ops.shape(next(iter(given.values())))[0]
        masks = ops.full((rows, *self.modalities[self.target].token_shape), process.vocabulary, dtype="int32")
        times = {**self.at_rest(given), self.target: ops.ones((rows,))}
        logits = self.network({**given, self.target: masks}, times, inputs.get("present"))[self.target]
        return ops.softmax(ops.reshape(logits, (-1, process.vocabulary)), axis=-1)


class Score(Program):
    def __init__(self, generator, target, num_draws):
        super().__init__(generator)
        self.target, self.num_draws = target, num_draws

    def call(self, inputs):
        name, n = self.target, self.num_draws
        numbers = uniform(inputs["seed"], (n,))
        here = inputs.get("present", {}).get(name)
        space = self.network.spaces[name]
        count = space.num_tokens if here is None else ops.sum(ops.cast(here, "float32"), axis=1)

        def one(total, i):
            t = UNIFORM((ops.cast(i, "float32") + ops.take(numbers, i, axis=1)) / n)
            loss = count * space.num_codes * self.losses(inputs, {name: t}, stream=i + 1)[name]
            return (total[0] + loss, total[1] + ops.square(loss))

        zeros = ops.zeros_like(numbers[:, 0])
        total, squares = ops.fori_loop(0, n, lambda i, total: one(total, i), (zeros, zeros))
        mean = total / n
        deviation = ops.sqrt(ops.maximum(squares / n - ops.square(mean), 0.0) / (n - 1))
        return {"bound": mean, "standard_error": deviation}


class Losses(Program):
    """The losses of `targets` at the noise level "t" (b,), the same for all of them, given the rest: (b,) by name."""

    def __init__(self, generator, targets):
        super().__init__(generator)
        self.targets = targets

    def call(self, inputs):
        return self.losses(inputs, dict.fromkeys(self.targets, inputs["t"]))


class Attention(Program):
    """How much of its attention `target` at the noise level "t" (b,) gives to each token of `source`: (b, n)."""

    def __init__(self, generator, source, target):
        super().__init__(generator)
        self.source, self.target = source, target

    def call(self, inputs):
        tokens, times, _ = self.noisy(inputs, {self.target: inputs["t"]})
        weights, places = self.network.attention_weights(tokens, times, inputs.get("present"))
        weights = weights[:, places[self.target], places[self.source]]
        here = inputs.get("present", {}).get(self.target)
        here = ops.ones_like(weights[:, :, 0]) if here is None else ops.cast(here, weights.dtype)
        return ops.einsum("bqk,bq->bk", weights, here) / ops.maximum(ops.sum(here, axis=1, keepdims=True), 1.0)


class Fill(Program):
    """Noise to modalities, of which the wanted ones are returned: a loop for each group that is generated together."""

    def __init__(self, generator, want, groups, num_steps):
        super().__init__(generator)
        self.want = want
        self.groups = groups
        self.samplers = {name: generator.sampler_of(name) for group in groups for name in group}
        self.steps = uniform_times(num_steps)

    def call(self, inputs):
        made = {}
        for group in self.groups:
            advance, start = self._way(inputs, group, made)
            states = ops.fori_loop(0, len(self.steps) - 1, lambda i, states, f=advance: f(states, i)[0], start)
            made.update(zip(group, states))
        return {
            name: made[name] if self.modalities[name].lossless else self.modalities[name].tokenizer.decode(made[name])
            for name in self.want
        }

    def _way(self, inputs, group, made, guess=False):
        """A step, (states, i) -> states and, if asked, what the network takes the data to be; and the first states."""
        known = {name: flags for name, flags in inputs.get("known", {}).items() if name not in made}
        waiting = [name for name in known if name not in group]  # until their turn, what is not known of them is noise
        stay = {name: self.network.spaces[name].spread(flags) for name, flags in known.items()}
        seeds = split(inputs["seed"], len(self.modalities))
        seeds = {name: seeds[:, place] for place, name in enumerate(self.modalities)}

        def keep(name, x):
            return ops.where(stay[name], ops.cast(inputs["given"][name], x.dtype), x) if name in stay else x

        start = {name: keep(name, self._prior(name, seeds[name])) for name in (*group, *waiting)}
        context = {**inputs["given"], **made, **start}
        present, scales = inputs.get("present", {}), inputs.get("guidance", {})
        scales = {name: scale for name, scale in scales.items() if name in context and name not in group}
        ones, times = ops.ones(ops.shape(inputs["seed"])[:1]), ops.convert_to_tensor(self.steps)

        def advance(states, i):
            i = ops.cast(i, "int32")
            t, s = ops.take(times, i, axis=0), ops.take(times, i + 1, axis=0)
            tokens = {**context, **dict(zip(group, states))}
            levels = {**self.at_rest(tokens), **dict.fromkeys(waiting, ones), **dict.fromkeys(group, t * ones)}
            outputs = self._guided(group, tokens, levels, present, known, scales)
            after, found = [], []
            for name in group:
                sampler = self.samplers[name]
                predict = Denoiser(self.modalities[name].process, lambda x_t, t, output=outputs[name]: output)
                noise = self._step_noise(name, seeds[name], i) if sampler.stochastic else None
                after.append(keep(name, sampler.step(predict, tokens[name], t, s, noise)))
                if guess:
                    found.append(keep(name, self._guess(name, predict(tokens[name], t), after[-1])))
            return after, found

        return advance, [start[name] for name in group]

    def _guess(self, name, prediction, after):
        """The data that is predicted; of ids the likeliest, where they are still masked."""
        if self.modalities[name].tokens == "latents":
            return prediction[0]
        likeliest = ops.cast(ops.argmax(prediction, axis=-1), "int32")
        return ops.where(after == self.modalities[name].process.vocabulary, likeliest, after)

    def _prior(self, name, seed):
        modality = self.modalities[name]
        if modality.tokens == "latents":
            return modality.process.prior(normal(seed, modality.token_shape))
        return modality.process.prior(ops.zeros((ops.shape(seed)[0], *modality.token_shape)))

    def _step_noise(self, name, seed, i):
        shape = self.modalities[name].token_shape
        if self.modalities[name].tokens == "latents":
            return normal(seed, shape, stream=i + 1)
        return uniform(seed, (*shape, 2), stream=i + 1)

    def _guided(self, group, tokens, levels, present, known, scales):
        """output + sum of (scale - 1) (output - output without what guides), in one pass of the network."""
        if not scales:
            return self.network(tokens, levels, present, known)
        copies = 1 + len(scales)

        def repeat(x):
            return ops.concatenate([x] * copies, axis=0)

        rows = ops.shape(next(iter(levels.values())))[0]
        seen = {}
        for name in {**present, **scales}:
            here = present.get(name)
            here = ops.ones((rows, 1), dtype="bool") if here is None else here
            gone = ops.zeros_like(here)
            seen[name] = ops.concatenate([here, *[gone if name == other else here for other in scales]], axis=0)
        outputs = self.network(
            keras.tree.map_structure(repeat, tokens),
            keras.tree.map_structure(repeat, levels),
            seen,
            keras.tree.map_structure(repeat, known),
        )
        guided = {}
        for name in group:
            whole, *without = ops.split(outputs[name], copies, axis=0)
            total = whole
            for scale, other in zip(scales.values(), without):
                scale = ops.reshape(scale, (-1, *[1] * (len(whole.shape) - 1)))
                total = total + (scale - 1.0) * (whole - other)
            guided[name] = total
        return guided


class Trajectory(Fill):
    """What the network takes the data to be in each step of `Fill`, and what is generated in the last: tokens
    (b, steps, *shape) by modality."""

    def call(self, inputs):
        made, found = {}, {}
        for group in self.groups:
            advance, start = self._way(inputs, group, made, guess=True)
            states, guesses = ops.scan(advance, start, ops.arange(len(self.steps) - 1))
            made.update(zip(group, states))
            for name, state, x in zip(group, states, guesses):
                found[name] = ops.swapaxes(ops.concatenate([x[:-1], state[None]]), 0, 1)
        return {name: found[name] for name in self.want}
