"""Tasks on several modalities: which are given, and which are wanted."""

import itertools

GENERATED, GIVEN, ABSENT = 0, 1, 2


def fillings(modalities):
    """Every task of the modalities: {name: (given, wanted)}, such as {"text_to_image": (("text",), ("image",))}.

    Any modalities may be given, any others wanted, at least one, and the rest absent; conditions (`adaln`) are only
    given.
    """
    names = [m.name for m in modalities]
    conditions = {m.name for m in modalities if m.adaln}
    tasks = {}
    for roles in itertools.product((GENERATED, GIVEN, ABSENT), repeat=len(names)):
        given = tuple(name for name, role in zip(names, roles) if role == GIVEN)
        want = tuple(name for name, role in zip(names, roles) if role == GENERATED)
        if want and not conditions & set(want):
            tasks["_".join((*given, "to", *want)) if given else "_".join(want)] = (given, want)
    return tasks


def checked_tasks(tasks, modalities):
    """`tasks` as {name: (given, want)}, tuples; of None all of them.

    Raises:
        ValueError: on a task of unknown modalities, without a wanted one, or that wants what is given or a condition.
    """
    if tasks is None:
        return fillings(modalities)
    names = {m.name: m for m in modalities}
    checked = {}
    for task, (given, want) in tasks.items():
        if isinstance(given, str) or isinstance(want, str):
            raise ValueError(
                f"A task is two tuples of names, as ((), ('image',)). Received: {(given, want)} in {task!r}"
            )
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
