"""Any modalities from any others: sampler, guidance and tokenizers in one compiled call for each question."""

import functools

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import Euler, MaskedAncestral, MaskedSampler, Sampler
from keras_mmai.models.door import Door, check_count
from keras_mmai.models.modality import checked_modalities
from keras_mmai.models.programs import Decode, Fill, Trajectory
from keras_mmai.models.questions import Questions
from keras_mmai.models.tasks import checked_tasks
from keras_mmai.noise import split
from keras_mmai.serialization import register
from keras_mmai.serving import Servable
from keras_mmai.tokenizers import TextTokenizer


@register
class MultimodalGenerator(Questions, Servable, keras.Model):
    """Generates any modalities given any others, tells how likely what is given is, and embeds it.

    Each task is compiled once, at its first use: for other samplers make another generator of the model. A row's seed
    alone decides its noise, whatever batch it is in.

    Args:
        network: a `MultimodalDiT`.
        modalities: list of its `Modality`.
        tasks: dict of (given, wanted) by name, the signatures of `export`; only what some task gives can be given, and
            only what some task wants can be wanted. None is all.
        samplers: dict of a `Sampler` by modality: a `MaskedSampler` for ids, one of one evaluation for latents, such as
            `Euler`; what is left out has `MaskedAncestral()` or `Euler()`. Since one pass of the network serves all of
            them, only their `step` is called.
        num_steps: int, steps of the samplers, for each group of `order`.
        guidance: dict of float by modality, the scale of classifier-free guidance by it where it is given, or one float
            for all; 1 is none.
        order: list of names, or of tuples of names, of what is generated first, in turn, unless it is given: the others
            are generated given these, and guided by these, too; what is not named comes last. What comes first is made
            even where it is not wanted, and then not returned: of an image, its word, and of both a sound. None: all at
            once.
        unseen: names of modalities that no training example had: they can't be asked for, nor given.

    Raises:
        ValueError: on a network of other modalities; tasks, samplers, guidance, an order or `unseen` of unknown ones;
            or a sampler of the other kind.
    """

    def __init__(
        self,
        network,
        modalities,
        tasks=None,
        samplers=None,
        num_steps=24,
        guidance=None,
        order=None,
        unseen=(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False
        self.network = network
        self.modalities = checked_modalities(modalities, network)
        self.tasks = checked_tasks(tasks, self.modalities)
        self.samplers = samplers or {}
        self.num_steps = num_steps
        self.guidance = guidance
        self.unseen = tuple(unseen)
        self._by_name = {m.name: m for m in self.modalities}
        self._door = Door(self)
        check_count(num_steps, "num_steps")
        self._program = functools.cache(self._make_program)
        self.tokenizers = [m.tokenizer for m in self.modalities]  # so that their weights are saved
        self._door.check_dict(self.samplers, "samplers")
        self._door.check_names(unseen, "unseen")
        if not isinstance(order, tuple | list | None):
            raise ValueError(f"`order` is a list of names, or of tuples of them. Received: {order!r}")
        self.order = list(order or ())
        named = [name for group in self.order for name in ([group] if isinstance(group, str) else group)]
        self._door.check_names(named, "order")
        if len(set(named)) < len(named):
            raise ValueError(f"`order` names each modality once. Received: {order}")
        for given, want in self.tasks.values():
            self._door.check_order(given, want)
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

    def modality(self, name):
        """The `Modality` of this name."""
        self._door.check_names([name], "name")
        return self._by_name[name]

    def sampler_of(self, name):
        default = MaskedAncestral() if self._by_name[name].tokens == "codes" else Euler()
        return self.samplers.get(name, default)

    def groups(self, given, want):
        """The names that are generated, in tuples of those generated together, in turn: see `order`."""
        groups, left = [], set(want)
        for names in self.order:
            names = {names} if isinstance(names, str) else set(names)
            # where nothing that is wanted comes after it, only what is wanted itself
            asked = set(want) if left <= names else {m.name for m in self.modalities if not m.adaln} - set(given)
            groups.append(tuple(m.name for m in self.modalities if m.name in names & (asked | left)))
            left -= names
        return tuple(group for group in (*groups, tuple(name for name in want if name in left)) if group)

    def made_before(self, given, want):
        """Those of which others are made."""
        return [name for group in self.groups(given, want)[:-1] for name in group]

    def guiding(self, given, want, guidance=None):
        """Those of the scales `guidance`, a dict, one float, or None for the constructor's, that a task can use: by
        what is given, or made before the rest."""
        names = (*given, *self.made_before(given, want))
        scales = self._door.scales(self.guidance if guidance is None else guidance, names)
        return {name: scale for name, scale in scales.items() if name in names and scale != 1}

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

        Some task must give each modality that is given, and want each that is wanted. The combination need not be a
        task; how well one that was never trained is answered is for `metrics.coherence` to tell.

        Args:
            given: dict by modality of signals (n, ...) or their tokens; None: nothing.
            want: names of modalities; None: all that are not given and that some task wants.
            known: dict by modality of bool (n, *grid) or (*grid,) over its tokens: those of a modality that is given
                and wanted which stay as they are; the others are generated. For inpainting and continuation. A
                tokenizer with convolutions makes a token of its neighbours, too: blank what nobody should know.
            present: dict by modality of bool (n,) or (n, *grid): which tokens of what is given are there; the others
                are absent (see `Modality.encode`), or, where the modality is wanted, too, generated. None: all.
            num_samples: int, where nothing is given; else there is one for each row given.
            steps: int; None is `num_steps`.
            guidance: float for all that is given and not wanted, or made first, or a dict by modality; None is that of
                the constructor.
            seed: int, or int32 (n, 2). Row i depends on (seed, i) and what it is given alone.
            batch_size, verbose: of `predict`.

        Raises:
            ValueError: on an unknown modality, nothing wanted, one that is given and wanted without `known`, one that
                no task has in this role or no training example had, `known` or `present` of another form, rows of
                different number, guidance by what is not given, or signals that their tokenizer does not take.
        """
        options = dict(present=present, num_samples=num_samples, guidance=guidance, seed=seed, batch_size=batch_size)
        fill, inputs = self._filling(Fill, given, want, known, steps, **options)
        out = fill.predict(inputs, batch_size=batch_size, verbose=verbose)
        return {
            name: self._by_name[name].tokenizer.decode(x) if self._by_name[name].lossless else x
            for name, x in out.items()
        }

    def extend(
        self,
        start,
        num_blocks,
        overlap=None,
        given=None,
        steps=None,
        guidance=None,
        seed=0,
        batch_size=100,
        verbose=0,
    ):
        """Goes on beyond the window, block by block: each is the rest of a window that begins with the last tokens.

        Args:
            start: dict of one modality that lies in time, texts or those of a `PassThrough`: signals (n, ...) of one
                window, which stay. Texts may be shorter: more of their first window is generated. Padding is left out.
            num_blocks: int, at least 1, the windows that are generated.
            overlap: int, tokens known at the beginning of each: at least 1, less than all; None: half of them.
            given: as that of `generate`, for all blocks; what `order` puts first is made anew for each.
            steps, guidance: as those of `generate`.
            seed: int, or int32 (n, 2). Row i depends on (seed, i) and what it is given alone; block k has the k-th seed
                that `noise.split` makes of it.
            batch_size, verbose: of `predict`.

        Returns:
            dict by name: longer signals, a list of str or numpy (n, tokens, ...). Each block adds a window less the
            overlap.

        Raises:
            ValueError: on a modality that can't go on, as one whose tokenizer decodes a single length, a number of
                blocks or an overlap out of range, and as `generate` does.
        """
        name, given, overlap = self._door.extension(start, given, num_blocks, overlap)
        tokenizer, space = self._by_name[name].tokenizer, self.network.spaces[name]
        text = isinstance(tokenizer, TextTokenizer)
        whole = {name: np.ones(space.grid, bool)}
        options = dict(guidance=guidance, seed=seed, batch_size=batch_size)
        program, inputs = self._filling(Fill, {**given, **start}, [name], whole, steps, **options)
        seeds = ops.convert_to_numpy(split(inputs["seed"], num_blocks))
        rows = [x[x > 0] if text else x for x in np.asarray(inputs["given"][name])]
        size = space.patch_size[0]  # latents of a token along time
        for block in range(num_blocks):
            tails = [row[-overlap * size :] for row in rows]
            window, known = np.zeros_like(inputs["given"][name]), np.zeros((len(rows), *space.grid), bool)
            for i, tail in enumerate(tails):
                window[i, : len(tail)], known[i, : len(tail) // size] = tail, True
            tokens = {**inputs["given"], name: window}
            inputs = {**inputs, "given": tokens, "known": {name: known.reshape(len(rows), -1)}, "seed": seeds[:, block]}
            made = program.predict(inputs, batch_size=batch_size, verbose=verbose)[name]
            new = [x[len(tail) :] for tail, x in zip(tails, made)]
            rows = [np.concatenate([row, x[x > 0] if text else x]) for row, x in zip(rows, new)]
        return {name: [tokenizer.text_of(row) for row in rows] if text else np.stack(rows)}

    def trajectory(self, given=None, want=None, known=None, *, batch_size=100, verbose=0, **options):
        """What the network takes the wanted signals to be in each step of `generate`, whose keywords these are.

        Returns:
            dict by name of lists, one for each step, of signals (n, ...); the last one is what is generated.

        Raises:
            ValueError: as `generate`.
        """
        program, inputs = self._filling(Trajectory, given, want, known, batch_size=batch_size, **options)
        out = program.predict(inputs, batch_size=batch_size, verbose=verbose)
        return {
            name: [self._decode(name, tokens, batch_size) for tokens in np.swapaxes(x, 0, 1)] for name, x in out.items()
        }

    def _filling(self, kind, given, want, known=None, steps=None, **options):
        """A `Fill` and what it takes."""
        want, inputs = self._door.filling(given, want, known, steps, **options)
        groups = self.groups(inputs["given"], want)
        return self._program(kind, want, groups, self.num_steps if steps is None else steps), inputs

    def decode(self, tokens, batch_size=100, verbose=0):
        """Tokens of the host, a dict (n, ...) by modality, to signals, as `generate` gives them.

        Raises:
            ValueError: on an unknown modality, or what are no tokens of it.
        """
        self._door.check_dict(tokens, "tokens")
        signals = {}
        for name, values in tokens.items():
            modality = self._by_name[name]
            values = np.asarray(values)
            if modality.lossless or modality.vocabulary is None or not modality.holds_tokens(values):
                values = modality.check_tokens(values)
            else:
                modality.tokenizer.check_codes(values)  # by which residual levels may be left out
            signals[name] = self._decode(name, values, batch_size, verbose)
        return signals

    def _decode(self, name, tokens, batch_size, verbose=0):
        if self._by_name[name].lossless:
            return self._by_name[name].tokenizer.decode(tokens)
        return self._program(Decode, name).predict(tokens, batch_size=batch_size, verbose=verbose)

    def _make_program(self, kind, *arguments):
        program = kind(self, *arguments)
        program.jit_compile = self.jit_compile
        return program

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})}: one for each task, of "seed" and what is given.

        A text whose tokenizer TensorFlow can't run is ids there, see `Modality.serving`.
        """
        signatures = {}
        for task, (given, want) in self.tasks.items():
            arguments, encoders = {"seed": ((2,), "int32")}, {}
            for name in given:
                encoders[name], arguments[name] = self._by_name[name].serving("encode")
            fill = Fill(self, want, self.groups(given, want), self.num_steps)
            guiding = self.guiding(given, want)

            def run(seed, _fill=fill, _encoders=encoders, _guiding=guiding, **signals):
                inputs = {"seed": seed, "given": {name: encode(signals[name]) for name, encode in _encoders.items()}}
                if _guiding:
                    ones = ops.ones_like(ops.cast(seed[:, 0], "float32"))
                    inputs["guidance"] = {name: scale * ones for name, scale in _guiding.items()}
                out = _fill(inputs)
                return {
                    name: self._by_name[name].serving("decode")[0](x) if self._by_name[name].lossless else x
                    for name, x in out.items()
                }

            signatures[task] = (run, arguments)
        return signatures
