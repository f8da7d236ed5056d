"""Configs: a constructor argument is an attribute is a config key.

`register` gives any class, a Keras layer or a plain object, a `get_config` and `from_config` read off its constructor's
signature, so that objects holding objects (a model holding a process holding a schedule) save and load without a line
of their own.
"""

import inspect

import keras


def argument_names(cls):
    """Names of the constructor's own arguments, in order, without `self` and `**kwargs`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind in kinds]


class Configurable:
    """A plain immutable object with a config: schedules, times, processes, samplers, guidance.

    Two of them are equal when their class and their config are.
    """

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash(repr(self))

    def __repr__(self):
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in argument_names(type(self)))
        return f"{type(self).__name__}({arguments})"


def _mark_shared(objects, configs):
    """Of a list of objects that hold the same one, as two modalities a tokenizer, tells Keras to load that once."""
    first = {}
    for one, config in zip(objects, configs):
        for name in argument_names(type(one)) if isinstance(one, Configurable) else ():
            held, part = getattr(one, name), config["config"][name]
            if isinstance(part, dict) and "class_name" in part and first.setdefault(id(held), part) is not part:
                first[id(held)]["shared_object_id"] = part["shared_object_id"] = id(held)


def register(cls):
    """Registers `cls` with Keras and derives `get_config` and `from_config` from its constructor.

    Raises:
        TypeError: at saving, if an argument is not kept as an attribute of the same name.
    """

    def get_config(self):
        config = keras.layers.Layer.get_config(self) if isinstance(self, keras.layers.Layer) else {}
        for name in argument_names(type(self)):
            if not hasattr(self, name):
                raise TypeError(f"{type(self).__name__} must keep its argument `{name}` as an attribute to be saved.")
            value = keras.saving.serialize_keras_object(getattr(self, name))
            if isinstance(value, list):
                _mark_shared(getattr(self, name), value)
            if isinstance(value, dict):
                value.pop("compile_config", None)  # a model that is a part of another is not trained by itself
            config[name] = value
        return config

    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

    cls.get_config = get_config
    cls.from_config = classmethod(from_config)
    return keras.saving.register_keras_serializable(package="keras_mmai")(cls)
