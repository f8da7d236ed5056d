"""Do the generated modalities belong together? Judged by classifiers of real signals (Shi et al. 2019, section 4.3)."""

import numpy as np

from keras_mmai.metrics.diversity import class_entropy
from keras_mmai.metrics.frechet import frechet_distance
from keras_mmai.models.door import check_generator


def coherence(generator, signals, labels, judges, tasks=None, num_joint=None, reference=None, seed=0, **options):
    """Which share of generated signals is of the label that they were given, how often all agree, how real they are.

    Args:
        generator: a `MultimodalGenerator`.
        signals: dict by modality of real signals (n, ...), of examples that the generator was not trained on.
        labels: ints (n,), what they are.
        judges: dict by modality of functions, signals to labels (n,); a label below 0 is never right. A modality
            without one is given but not judged.
        tasks: dict of (given, wanted) by name, or names of some of the generator's; None: all of these. One signal of
            nothing can't be wrong, and is left out, and so is a task that is given what `signals` lack.
        num_joint: int, samples of tasks in which nothing is given; None is n.
        reference: dict by modality of real signals (m, ...), which the generator may have been trained on, of judges
            with `features`: `train_judge` has them.
        seed: int.
        options: of `generate`: steps, guidance, batch_size. Of a dict of guidance each task takes what can guide it.

    Returns:
        dict: "tokenizer_ceiling", by modality the share of real signals, once encoded and decoded, of the right label;
        "conditional", by task and modality that of what was generated; "joint", by task that in which all judges agree;
        "class_entropy", by joint task and modality the entropy of the labels found over that of equally many of each;
        "valid", by joint task and modality the share with a label of 0 or above; "frechet_distance", only with a
        `reference`, by task and modality the distance to it of what was generated, and by "real" that of `signals`:
        compare those of as many examples;
        "conditional_over_ceiling", the mean over all tasks and modalities of the share by its ceiling; and
        "joint_over_ceiling", by task the share by that of real signals, once encoded and decoded, in which all agree.
        Both are absent where there is no such task.

    Raises:
        ValueError: on names that are no task or no modality, judges of what `signals` lack, labels of another shape or
            kind, from outside or from a judge, or a reference without features.
    """
    check_generator(generator, "generator")
    labels, guidance, reference = np.asarray(labels), options.get("guidance"), dict(reference or {})
    modalities = {m.name: m for m in generator.modalities}
    tasks = _tasks(generator.tasks, tasks)
    _check(modalities, signals, labels, judges, tasks, reference)
    known = {name: judges[name].features(x) for name, x in reference.items()}

    def distances(found):
        features = {name: judges[name].features(x) for name, x in found.items() if name in known}
        return {name: frechet_distance(x, known[name]) for name, x in features.items()}

    def labels_of(name, x):
        found = np.asarray(judges[name](x))
        if found.shape != (len(x),):
            raise ValueError(f"The judge of {name!r} gives a label for each: {(len(x),)}. Received: {found.shape}")
        return found

    distance = {"real": distances(signals)}
    batch_size = options.get("batch_size", 100)
    signals = {name: m.encode(signals[name], batch_size) for name, m in modalities.items() if name in signals}
    ceiling, real = {}, {}
    for name in judges:
        real[name] = labels_of(name, generator.decode({name: signals[name]}, batch_size)[name])
        ceiling[name] = _share(real[name] == labels)
    conditional, joint, entropy, valid, best = {}, {}, {}, {}, {}
    for task, (given, want) in tasks.items():
        judged = set(want) & set(judges)
        if set(given) - set(signals) or not judged or (not given and len(judged) < 2):
            continue
        here = {name: signals[name] for name in given}
        count = None if given else num_joint or len(labels)
        if guidance is not None:
            options["guidance"] = generator.guiding(given, want, guidance)
        out = generator.generate(here, want, num_samples=count, seed=seed, **options)
        found = {name: labels_of(name, x) for name, x in out.items() if name in judges}
        distance[task] = distances(out)
        if given:
            conditional[task] = {name: _share(label == labels) for name, label in found.items()}
            continue
        joint[task] = _agreement(list(found.values()))
        best[task] = max(_agreement([real[name] for name in found]), 1 / len(labels))
        num_classes = 1 + max(1, labels.max(), *(label.max() for label in found.values()))
        entropy[task] = {name: class_entropy(label, num_classes) for name, label in found.items()}
        valid[task] = {name: _share(label >= 0) for name, label in found.items()}
    report = {"tokenizer_ceiling": ceiling, "conditional": conditional, "joint": joint}
    report |= {"class_entropy": entropy, "valid": valid}
    if reference:
        report["frechet_distance"] = distance
    if conditional:
        shares = [
            share / max(ceiling[name], 1 / len(labels))
            for found in conditional.values()
            for name, share in found.items()
        ]
        report["conditional_over_ceiling"] = float(np.mean(shares))
    if joint:
        report["joint_over_ceiling"] = {task: share / best[task] for task, share in joint.items()}
    return report


def _tasks(all_tasks, tasks):
    if tasks is None or isinstance(tasks, dict):
        return all_tasks if tasks is None else tasks
    unknown = sorted(set(tasks) - set(all_tasks))
    if isinstance(tasks, str) or unknown:
        raise ValueError(f"`tasks` are a dict, or names among {sorted(all_tasks)}. Received: {tasks!r}")
    return {name: all_tasks[name] for name in tasks}


def _check(modalities, signals, labels, judges, tasks, reference):
    unknown = sorted({name for task in tasks.values() for names in task for name in names} - set(modalities))
    if unknown or (reference and "real" in tasks):
        raise ValueError(
            f"`tasks` are of the modalities {sorted(modalities)}, and none is named 'real'. Received: {tasks}"
        )
    unknown = sorted({*signals, *judges} - set(modalities))
    if unknown or set(judges) - set(signals):
        raise ValueError(
            f"`signals` are of the modalities {sorted(modalities)}, and `judges` of some of them. Received: "
            f"{sorted(signals)} and {sorted(judges)}"
        )
    rows = {len(x) for x in signals.values()}
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or {len(labels)} != rows:
        raise ValueError(f"`labels` are ints (n,), one of each signal. Received: {labels.shape} {labels.dtype}, {rows}")
    unknown = sorted(name for name in reference if not hasattr(judges.get(name), "features"))
    if unknown:
        raise ValueError(f"`reference` is of modalities whose judge has `features`. Received: {unknown}")


def _agreement(found):
    """The share in which all labels are the same, and none is below 0."""
    return _share(np.all([(label == found[0]) & (label >= 0) for label in found], axis=0))


def _share(right):
    return float(np.mean(right))
