"""What is fitted and what a generator is asked, checked at the door and put as the network and programs take it."""

import numpy as np
from keras import ops

from keras_mmai.noise import row_seeds
from keras_mmai.tokenizers import PassThrough, TextTokenizer

DICTS = ("present", "known", "t", "noise")  # of a batch, by modality


def check_generator(generator, argument):
    """That it generates, as a `MultimodalGenerator` and not the model that is trained."""
    if not all(hasattr(generator, name) for name in ("generate", "tasks")):
        raise ValueError(
            f"`{argument}` is a `MultimodalGenerator`, which `generator()` of a trained model gives. Received: "
            f"{generator!r:.100}"
        )


def check_count(value, argument, least=1, most=np.inf):
    """That it is an int between these."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        bounds = f"of at least {least}" if most == np.inf else f"from {least} to {most}"
        raise ValueError(f"`{argument}` is an int {bounds}. Received: {value!r}")


class BatchDoor:
    """What a `MultimodalDiffusionTransformer` is fitted on. Each check raises a ValueError that names the key."""

    def __init__(self, modalities, tasks, learned):
        self.modalities = {m.name: m for m in modalities}
        self.tasks = list(tasks)
        self.learned = learned

    def check_keys(self, x):
        for value, where in ((x, "What is fitted"), *((x[key], repr(key)) for key in DICTS if key in x)):
            if not isinstance(value, dict):
                raise ValueError(f"{where} is a dict by modality. Received: {value!r:.100}")
        for keys, where in ((set(x) - {*DICTS, "task"}, ""), *((set(x.get(k, {})), f" in {k!r}") for k in DICTS)):
            unknown = sorted(keys - set(self.modalities))
            if unknown:
                allowed = ", ".join(map(repr, (*sorted(self.modalities), *(() if where else (*DICTS, "task")))))
                raise ValueError(f"What is fitted has keys among {allowed}. Received: {unknown}{where}")
        for key in ("present", "known"):  # a column of signals may have been forgotten
            without = sorted(set(x.get(key, {})) - set(x))
            if without:
                there = sorted(set(x) & set(self.modalities))
                raise ValueError(f"{key!r} is of signals that are there, {there}. Received: {without}")

    def check(self, x):
        """The keys of a batch on the host, and all but its signals."""
        self.check_keys(x)
        for key in ("present", "known"):
            for name, flags in x.get(key, {}).items():
                flags = np.asarray(flags)
                if flags.dtype.kind == "O":
                    raise ValueError(f"{key!r} of {name!r} is bool. Received: an array of Python objects")
                self.flags(key, name, flags)
        for name in [name for name, m in self.modalities.items() if name in x and not m.adaln]:
            if "t" in x:
                t = ops.convert_to_numpy(self.levels(name, x["t"]))
                if not np.all((t >= 0) & (t <= 1)):
                    raise ValueError(f"'t' of {name!r} is of noise levels in [0, 1]. Received: {t!r:.100}")
            if name in x.get("noise", {}):
                self._check_noise(name, np.asarray(x["noise"][name]), len(x[name]))
        if "task" in x:
            self._check_task(np.asarray(x["task"]))

    def others(self, data):
        """All but the signals of a whole data set, as arrays, checked: every column has a row for each example."""
        self.check_keys(data)
        names = self.modalities
        rows = {name: len(data[name]) for name in names if name in data}
        if not rows:
            raise ValueError(f"There is none of the modalities {sorted(names)}. Received keys: {sorted(data)}")
        others = {key: data[key] for key in data if key not in names}
        others = {
            key: {name: np.asarray(x) for name, x in value.items()} if key in DICTS else np.asarray(value)
            for key, value in others.items()
        }
        columns = {f"{key!r} of {name}": x for key in DICTS for name, x in others.get(key, {}).items()}
        columns |= {"'task'": others["task"]} if "task" in others else {}
        rows.update({name: len(x) if x.ndim else "no" for name, x in columns.items()})
        if len(set(rows.values())) > 1:
            raise ValueError(f"Every modality needs a row for each example. Received: {rows} rows")
        self.check({**data, **others})
        return others

    def present(self, name, x, rows):
        """Which tokens the examples of a batch really have: (b, n) bool."""
        flags = x.get("present", {}).get(name)
        if flags is None:
            return ops.ones((rows, self.modalities[name].space.num_tokens), dtype="bool")
        return self.flags("present", name, flags)

    def present_on_host(self, name, x, rows):
        """`present` as numpy."""
        return ops.convert_to_numpy(self.present(name, x, rows))

    def flags(self, key, name, flags):
        """Flags of rows or tokens: (b, n) bool."""
        space = self.modalities[name].space
        flags = space.flags(flags, f"{key!r} of {name!r}")
        return ops.broadcast_to(flags, (ops.shape(flags)[0], space.num_tokens))

    def levels(self, name, t):
        """The noise levels that are given: (b,) float32, or (b, n) of tokens."""
        space = self.modalities[name].space
        if name not in t or tuple(t[name].shape[1:]) not in ((), space.grid):
            raise ValueError(
                f"'t' is a dict of noise levels (b,), or {('b', *space.grid)} for each token, also of {name!r}. "
                f"Received: {tuple(t[name].shape) if name in t else sorted(t)}"
            )
        level = ops.cast(t[name], "float32")
        return level if len(level.shape) == 1 else ops.reshape(level, (-1, space.num_tokens))

    def _check_noise(self, name, noise, rows):
        m = self.modalities[name]
        form = noise.dtype.kind == "f" and noise.shape == (rows, *m.token_shape)
        if not form or not np.isfinite(noise).all() or (m.vocabulary and not np.all((noise >= 0) & (noise < 1))):
            kind = "Gaussian" if m.vocabulary is None else "uniform in [0, 1)"
            raise ValueError(
                f"'noise' of {name!r} is finite, {kind}, float (b, {', '.join(map(str, m.token_shape))}). Received: "
                f"{noise.shape} {noise.dtype}, {noise!r:.60}"
            )

    def _check_task(self, task):
        if task.ndim != 1 or task.dtype.kind not in "iu" or not np.all((task >= 0) & (task < len(self.tasks))):
            raise ValueError(f"'task' is of ints (b,) in 0..{len(self.tasks) - 1}. Received: {task!r:.100}")
        idle = [name for i, name in enumerate(self.tasks) if name not in self.learned and np.any(task == i)]
        if idle:
            raise ValueError(f"'task' is of tasks that are learned. Received: {idle}, of weight 0")


class Door:
    """What a `MultimodalGenerator` is asked. Each check raises a ValueError that names the argument."""

    def __init__(self, generator):
        self.modalities = {m.name: m for m in generator.modalities}
        self.spaces = generator.network.spaces
        self.tasks = generator.tasks
        pairs = self.tasks.values()
        self._learned = [{name for pair in pairs for name in pair[place]} - set(generator.unseen) for place in (0, 1)]
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

    def check_dict(self, value, argument):
        if not isinstance(value, dict):
            raise ValueError(f"`{argument}` is a dict by modality. Received: {value!r:.100}")
        self.check_names(value, argument)

    def learned(self, place):
        """The modalities that some task of the training has in a role, given (place 0) or wanted (1)."""
        return self._learned[place]

    def check_learned(self, names, argument, role):
        """That modalities of an argument are learned in their role, "given" or "wanted"."""
        learned = self.learned(("given", "wanted").index(role))
        for name in names:
            if name in self.unseen:
                raise ValueError(f"`{argument}`: no training example had {name!r}, so it can't be {role}.")
            if name not in learned:
                raise ValueError(f"`{argument}`: no task has {name!r} {role}. The tasks: {self.tasks}")

    def check_order(self, given, want):
        """What `order` puts before the wanted modalities is learned; it is returned."""
        before = self.made_before(given, want)
        self.check_learned([name for name in before if name not in want], "order", "wanted")
        self.check_learned(before, "order", "given")
        return before

    def check_given(self, given):
        """That something is given, of modalities that are learned as given."""
        self.check_dict(given, "given")
        if not given:
            raise ValueError("`given` is a dict of at least one modality. Received: {}")
        self.check_learned(given, "given", "given")

    def filling(self, given, want, known, steps, present=None, num_samples=None, guidance=None, seed=0, batch_size=100):
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
            check_count(steps, "steps")
        self.check_learned(want, "want", "wanted")
        conditions = [name for name in given if name not in want]
        self.check_learned(conditions, "given", "given")
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
        self.check_seed(seed)
        inputs, rows = self.inputs(given, present, num_samples, seed, batch_size)
        for name, flags in known.items():
            here = inputs["present"].pop(name, True)  # what is wanted and not there is generated
            inputs.setdefault("known", {})[name] = self._known(name, flags, rows) & here
        if scales:
            inputs["guidance"] = {name: np.full(rows, scale, "float32") for name, scale in scales.items()}
        return want, inputs

    def check_seed(self, seed):
        if seed is None:
            raise ValueError("`seed` is an int, or int32 (n, 2). Received: None")

    def inputs(self, given, present=None, num_samples=None, seed=None, batch_size=100):
        """What every program takes, and how many rows it has; tokenizers encode `batch_size` signals at once."""
        present = {} if present is None else present
        self.check_dict(present, "present")
        for name, x in given.items():
            if isinstance(x, str) or not hasattr(x, "__len__") or getattr(x, "ndim", 1) == 0:
                raise ValueError(f"{name!r} needs a row for each example, an array or list. Received: {x!r:.100}")
        sizes = {name: len(x) for name, x in given.items()}
        if num_samples is not None:
            check_count(num_samples, "num_samples")
            sizes["num_samples"] = int(num_samples)
        if len(set(sizes.values())) > 1:
            raise ValueError(f"`given` needs one row for each sample. Received: {sizes} rows")
        rows = next(iter(sizes.values()), 1)
        if rows < 1:
            raise ValueError(f"There is nothing to do: `given` has {sizes} rows.")
        absent = sorted(set(present) - set(given))
        if absent:
            raise ValueError(f"`present` is of what is given, {sorted(given)}. Received: {absent}")
        present = {name: self._present(name, flags, rows) for name, flags in present.items()}
        encode = {name: self.modalities[name].encode for name in given}
        inputs = {
            "given": {name: encode[name](x, batch_size, present=present.get(name)) for name, x in given.items()},
            "present": {name: flags.reshape(rows, -1) for name, flags in present.items()},
        }
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
        check_count(num_blocks, "num_blocks")
        check_count(overlap, "overlap", 1, grid[0] - 1)
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
