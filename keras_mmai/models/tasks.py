"""Tasks on several modalities: which are given and which are wanted, and what the examples of a batch draw of them."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_mmai.diffusion import stratified

GENERATED, GIVEN, ABSENT = 0, 1, 2


def fillings(modalities):
    """Every task of the modalities: {name: (given, wanted)}, such as {"text_to_image": (("text",), ("image",))}.

    Any modalities may be given, any others wanted, at least one, and the rest absent; conditions (`adaln`) are only
    given.

    Raises:
        ValueError: on names that make one of two tasks, as "a", "b" and "a_b".
    """
    names = [m.name for m in modalities]
    conditions = {m.name for m in modalities if m.adaln}
    tasks = {}
    for roles in itertools.product((GENERATED, GIVEN, ABSENT), repeat=len(names)):
        given = tuple(name for name, role in zip(names, roles) if role == GIVEN)
        want = tuple(name for name, role in zip(names, roles) if role == GENERATED)
        if want and not conditions & set(want):
            task = "_".join((*given, "to", *want)) if given else "_".join(want)
            if task in tasks:
                raise ValueError(
                    f"The names {names} make two tasks {task!r}, of {tasks[task]} and {(given, want)}: choose others."
                )
            tasks[task] = (given, want)
    return tasks


def _are_names(x):
    return isinstance(x, tuple | list | set)


def checked_tasks(tasks, modalities):
    """`tasks` as {name: (given, want)}, tuples; of None all of them.

    Raises:
        ValueError: on a task of unknown modalities, without a wanted one, or that wants what is given or a condition.
    """
    if tasks is None:
        return fillings(modalities)
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f"`tasks` is a dict of (given, wanted) by name. Received: {tasks!r:.200}")
    names = {m.name: m for m in modalities}
    checked = {}
    for task, pair in tasks.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(_are_names, pair)):
            raise ValueError(f"A task is two tuples of names, as ((), ('image',)). Received: {pair} in {task!r}")
        given, want = pair
        unknown = sorted({*given, *want} - set(names))
        if unknown:
            raise ValueError(f"The modalities are {sorted(names)}. Received: {unknown} in the task {task!r}")
        if not want:
            raise ValueError(f"Nothing is wanted in the task {task!r}: name at least one modality.")
        if set(given) & set(want):
            raise ValueError(f"What is given is not wanted too. Received: {given} and {want} in the task {task!r}")
        if any(names[name].adaln for name in want):
            raise ValueError(f"A condition (`adaln`) is only given. Received: {want} wanted in the task {task!r}")
        checked[task] = tuple(given), tuple(want)
    return checked


def tasks_without(tasks, names):
    """Tasks as they are where these modalities are absent: those that want nothing then, or are one of the others, are
    left out."""
    left = {task: pair for task, pair in tasks.items() if not {*pair[0], *pair[1]}.intersection(names)}
    pairs = set(left.values())
    for task, pair in tasks.items():
        given, want = (tuple(name for name in part if name not in names) for part in pair)
        if want and (given, want) not in pairs:
            left[task] = given, want
            pairs.add((given, want))
    return left


class Draws:
    """What each example of a training batch draws: its task, the noise levels, and the tokens that are known.

    Args:
        tasks, task_weights, independent_times, partly_known: see `MultimodalDiffusionTransformer`; tasks are checked.
        seed_generator: keras.random.SeedGenerator.
    """

    def __init__(self, tasks, task_weights, independent_times, partly_known, seed_generator):
        for argument, share in (("independent_times", independent_times), ("partly_known", partly_known)):
            if not 0 <= share <= 1:
                raise ValueError(f"`{argument}` is a share in [0, 1]. Received: {share}")
        unknown = sorted(set(task_weights) - set(tasks))
        weights = [task_weights.get(name, 1.0) for name in tasks]
        if unknown or not np.isfinite(weights).all() or min(weights) < 0 or not sum(weights):
            raise ValueError(
                "`task_weights` are finite, by name of `tasks`, none of them negative, and not all 0. Received: "
                f"{task_weights}, tasks {sorted(tasks)}"
            )
        self.tasks = tasks
        self.learned = {name: task for (name, task), weight in zip(tasks.items(), weights) if weight}
        self.until = (np.cumsum(weights) / np.sum(weights))[:-1].astype("float32")  # the last one takes the rest
        self.independent_times = independent_times
        self.partly_known = partly_known
        self.seed_generator = seed_generator

    def _uniform(self, *shape):
        return keras.random.uniform(shape, seed=self.seed_generator)

    def task(self, batch):
        """The place of each example's task: (b,) int32."""
        drawn = self._uniform(batch, 1)
        return ops.sum(ops.cast(drawn >= ops.convert_to_tensor(self.until), "int32"), axis=1)

    def role(self, name, task):
        """The role of a modality in tasks (b,): (b,) int32."""
        roles = [
            GIVEN if name in given else GENERATED if name in want else ABSENT for given, want in self.tasks.values()
        ]
        return ops.take(np.array(roles, "int32"), task, axis=0)

    def times(self, modalities, batch):
        """The noise level of each modality where it is generated: {name: (b,)}."""
        uniform = self._uniform(2 * len(modalities) + 2, batch)
        # in an order of its own, since rows of a batch may be sorted; it can be that of another one, which is not used
        shared, independent = stratified(uniform[0], ops.argsort(uniform[3])), uniform[1] < self.independent_times
        times = {}
        for i, m in enumerate(modalities, 1):
            own = stratified(uniform[2 * i], ops.argsort(uniform[2 * i + 1]))
            times[m.name] = m.process.times(ops.where(independent, own, shared))
        return times

    def known(self, num_tokens, wanted):
        """Which tokens of a modality that is `wanted` (b,) are known all the same: (b, n) bool."""
        uniform = self._uniform(ops.shape(wanted)[0], num_tokens + 3)
        chosen, share, ordered = uniform[:, :1] < self.partly_known, uniform[:, 1:2], uniform[:, 2:3] < 0.5
        place = ops.where(ordered, ops.arange(num_tokens, dtype="float32") / num_tokens, uniform[:, 3:])
        return ops.logical_and(ops.logical_and(chosen, wanted[:, None]), place < share)
