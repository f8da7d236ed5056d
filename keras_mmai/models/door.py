"""What a `MultimodalGenerator` is asked, checked at the door and put as its programs take it."""

import numpy as np
from keras import ops

from keras_mmai.noise import row_seeds
from keras_mmai.tokenizers import PassThrough, TextTokenizer


class Door:
    """Each check raises a ValueError that names the argument."""

    def __init__(self, generator):
        self.modalities = {m.name: m for m in generator.modalities}
        self.spaces = generator.network.spaces
        self.tasks = generator.tasks
        self.scales(generator.guidance, self.modalities)
        self.made_before = generator.made_before
        self.guiding = generator.guiding
        self.unseen = generator.unseen

    def check_names(self, names, argument):
        if isinstance(names, str) or not hasattr(names, "__iter__"):
            raise ValueError(f"`{argument}` is a list or dict of names. Received: {names!r}")
        unknown = sorted(set(names) - set(self.modalities))
        if unknown:
            raise ValueError(f"`{argument}`: the modalities are {sorted(self.modalities)}. Received: {unknown}")

    def check_count(self, value, argument, least=1):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"`{argument}` is an int of at least {least}. Received: {value!r}")

    def check_dict(self, value, argument):
        if not isinstance(value, dict):
            raise ValueError(f"`{argument}` is a dict by modality. Received: {value!r:.100}")
        self.check_names(value, argument)

    def learned(self, place):
        """The modalities that some task of the training has in a role, given (place 0) or wanted (1)."""
        return {name for task in self.tasks.values() for name in task[place]} - set(self.unseen)

    def check_learned(self, names, place, role):
        learned = self.learned(place)
        for name in names:
            if name in self.unseen:
                raise ValueError(f"No training example had {name!r}: it can't be {role}.")
            if name not in learned:
                raise ValueError(f"No task has {name!r} {role}. The tasks: {self.tasks}")

    def check_order(self, given, want):
        """What `order` puts before the wanted modalities is learned; it is returned."""
        before = self.made_before(given, want)
        self.check_learned([name for name in before if name not in want], 1, "generated, as `order` asks for")
        self.check_learned(before, 0, "given, as `order` asks for")
        return before

    def given(self, given, present):
        """What `embed` and `classify` take, of modalities that are learned as given."""
        self.check_dict(given, "given")
        if not given:
            raise ValueError("`given` is a dict of at least one modality. Received: {}")
        self.check_learned(given, 0, "given")
        return self.inputs(given, present)[0]

    def filling(self, given, want, known, present, num_samples, steps, guidance, seed):
        """The arguments of `generate` as the names that are wanted, in their order, and what a `Fill` takes."""
        for argument, value in (("given", given), ("known", known)):
            self.check_dict({} if value is None else value, argument)
        given, known = given or {}, known or {}
        self.check_names(() if want is None else want, "want")
        modalities = self.modalities.values()
        want = (
            tuple(m.name for m in modalities if m.name in want)
            if want is not None
            else tuple(
                m.name for m in modalities if (m.name not in given or m.name in known) and m.name in self.learned(1)
            )
        )
        if not want:
            raise ValueError("Nothing is wanted: name in `want` at least one modality that is generated.")
        if any(self.modalities[name].adaln for name in want):
            raise ValueError(f"A condition (`adaln`) is only given. Received: want={want}")
        if set(known) != set(given) & set(want):
            raise ValueError(
                "`known` is for exactly what is both given and wanted: it says which tokens stay. Received: "
                f"given={sorted(given)}, want={sorted(want)}, known={sorted(known)}"
            )
        if steps is not None:
            self.check_count(steps, "steps")
        if seed is None:
            raise ValueError("`seed` is an int, or int32 (n, 2). Received: None")
        self.check_learned(want, 1, "wanted")
        conditions = [name for name in given if name not in want]
        self.check_learned(conditions, 0, "given")
        before = self.check_order(given, want)
        if guidance is not None:
            guides = {*conditions, *before}
            absent = sorted(set(self.scales(guidance, guides)) - guides)
            if absent:
                raise ValueError(
                    f"`guidance` is by what is given and not wanted, {sorted(guides)}. Received: {absent}, which are "
                    "absent"
                )
        scales = self.guiding(conditions, want, guidance)
        inputs, rows = self.inputs(given, present, num_samples, seed)
        if known:
            inputs["known"] = {name: self._known(name, flags, rows) for name, flags in known.items()}
        if scales:
            inputs["guidance"] = {name: np.full(rows, scale, "float32") for name, scale in scales.items()}
        return want, inputs

    def inputs(self, given, present=None, num_samples=None, seed=None):
        """What every program takes, and how many rows it has."""
        present = {} if present is None else present
        self.check_dict(present, "present")
        for name, x in given.items():
            if isinstance(x, str) or not hasattr(x, "__len__"):
                raise ValueError(f"{name!r} needs a row for each example, an array or list. Received: {x!r:.100}")
        sizes = {name: len(x) for name, x in given.items()}
        if num_samples is not None:
            if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer):
                raise ValueError(f"`num_samples` is an int. Received: {num_samples!r}")
            sizes["num_samples"] = num_samples
        if len(set(sizes.values())) > 1:
            raise ValueError(f"`given` needs one row for each sample. Received: {sizes} rows")
        rows = next(iter(sizes.values()), 1)
        if rows < 1:
            raise ValueError(f"There is nothing to do: `given` and `num_samples` have {sizes} rows.")
        absent = sorted(set(present) - set(given))
        if absent:
            raise ValueError(f"`present` is of what is given, {sorted(given)}. Received: {absent}")
        present = {name: self._present(name, flags, rows) for name, flags in present.items()}
        tokens = {name: self.modalities[name].encode(x, present=present.get(name)) for name, x in given.items()}
        inputs = {"given": tokens}
        if present:
            inputs["present"] = {name: flags.reshape(rows, -1) for name, flags in present.items()}
        if seed is not None:
            inputs["seed"] = ops.convert_to_numpy(row_seeds(seed, rows))
        return inputs, rows

    def scales(self, guidance, names):
        """Guidance, a dict or one float for all `names`, or None, as a checked dict."""
        guidance = {} if guidance is None else guidance
        for scale in guidance.values() if isinstance(guidance, dict) else (guidance,):
            if not isinstance(scale, int | float | np.number) or not np.isfinite(scale):
                raise ValueError(f"`guidance` is a finite number, or a dict of such by modality. Received: {guidance}")
        if not isinstance(guidance, dict):
            return dict.fromkeys(names, guidance)
        self.check_names(guidance, "guidance")
        return guidance

    def extension(self, start, given, num_blocks, overlap):
        """The arguments of `extend`: the name of what goes on, what is given, and the overlap."""
        given = {} if given is None else given
        self.check_dict(start, "start")
        self.check_dict(given, "given")
        if len(start) != 1 or set(start) & set(given):
            raise ValueError(f"`start` is one modality that is not given. Received: {sorted(start)}")
        (name,) = start
        tokenizer, grid = self.modalities[name].tokenizer, self.spaces[name].grid
        if not isinstance(tokenizer, TextTokenizer | PassThrough):
            raise ValueError(
                f"The tokenizer of {name!r} takes signals of one length: `start` is of texts, or of a `PassThrough` of "
                f"its tokens. Received: {tokenizer!r}"
            )
        if len(grid) == 2 or grid[0] < 2:
            raise ValueError(f"{name!r} does not go on in time: its tokens lie on a grid of {grid}.")
        overlap = grid[0] // 2 if overlap is None else overlap
        for argument, value, most in (("num_blocks", num_blocks, np.inf), ("overlap", overlap, grid[0] - 1)):
            if not isinstance(value, int | np.integer) or not 1 <= value <= most:
                raise ValueError(f"`{argument}` is an int from 1 to {most}. Received: {value!r}")
        return name, given, overlap

    def _known(self, name, flags, rows):
        """Bool flags of tokens, (n, tokens)."""
        grid, flags = self.spaces[name].grid, np.asarray(flags)
        if flags.shape not in (grid, (rows, *grid)) or flags.dtype.kind != "b":
            raise ValueError(
                f"`known` of {name!r} is bool of shape {grid} or {(rows, *grid)}. Received: {flags.shape} {flags.dtype}"
            )
        return np.broadcast_to(flags, (rows, *grid)).reshape(rows, -1)

    def _present(self, name, flags, rows):
        """Bool flags of tokens, (n, *grid)."""
        flags, space = np.asarray(flags), self.spaces[name]
        if flags.shape[:1] != (rows,):
            raise ValueError(f"`present` of {name!r} needs a row for each of {rows}. Received: shape {flags.shape}")
        flags = ops.convert_to_numpy(space.flags(flags, f"`present` of {name!r}"))
        return np.broadcast_to(flags, (rows, space.num_tokens)).reshape(rows, *space.grid)
