"""The public names and their signatures, against tests/api.txt.

After a change that is meant: `python tests/test_api.py > tests/api.txt`, and say it in the changelog.
"""

import importlib
import inspect
import pathlib
import pkgutil
import re

import keras_mmai

SNAPSHOT = pathlib.Path(__file__).with_name("api.txt")


def public_names(module):
    """`__all__`, or what the module itself defines."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def describe(value):
    if inspect.isclass(value):
        parameters = list(inspect.signature(value.__init__).parameters.values())[1:]
        return str(inspect.Signature(parameters))
    return str(inspect.signature(value)) if callable(value) else ""


def api():
    names = [info.name for info in pkgutil.walk_packages(keras_mmai.__path__, "keras_mmai.")]
    lines = set()
    for module in map(importlib.import_module, ["keras_mmai", *names]):
        for name in public_names(module):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                lines.add(f"{module.__name__}.{name}{describe(value)}")
    return sorted(lines)


def test_the_public_names_are_those_of_the_snapshot():
    now, then = api(), SNAPSHOT.read_text().splitlines()
    gone, new = sorted(set(then) - set(now)), sorted(set(now) - set(then))
    assert now == then, "\n".join(
        [
            "The public names changed.",
            *(f"  gone: {line}" for line in gone),
            *(f"  new:  {line}" for line in new),
            "If that is meant: python tests/test_api.py > tests/api.txt",
        ]
    )


def test_a_backend_is_named_only_where_it_must_be():
    root = pathlib.Path(keras_mmai.__file__).parent
    pattern = re.compile(r"^\s*(import|from) (tensorflow|jax|torch)\b|backend\.backend\(\)", re.MULTILINE)
    naming = {str(path.relative_to(root)) for path in root.rglob("*.py") if pattern.search(path.read_text())}
    assert naming == {"training.py", "serving.py", "distribution.py", "data/prepared.py"}


if __name__ == "__main__":
    print("\n".join(api()))
