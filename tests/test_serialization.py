import keras
import pytest

from keras_mmai import DiT, Generator
from keras_mmai.diffusion import ClassifierFreeGuidance, GaussianDiffusion, Heun, LogitNormalTimes, VPCosine
from keras_mmai.layers import VectorQuantizer
from keras_mmai.serialization import Configurable, argument_names, register


@register
class Pair(Configurable):
    def __init__(self, first, *, second=2):
        self.first = first
        self.second = second


@register
class Forgetful(Configurable):
    def __init__(self, kept, lost=1):
        self.kept = kept


@register
class Scale(keras.layers.Layer):
    def __init__(self, pair, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.pair = pair
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_argument_names_are_the_constructors_own():
    assert argument_names(Pair) == ["first", "second"]
    assert argument_names(Scale) == ["pair", "factor"]
    assert argument_names(Heun) == []


def test_equality_hash_and_repr():
    assert Pair(1) == Pair(1, second=2) and hash(Pair(1)) == hash(Pair(1))
    assert Pair(1) != Pair(1, second=3) and Pair(Pair(1)) != Pair(Pair(2)) and Pair(1) != 1
    assert VPCosine() != VPCosine(500) and LogitNormalTimes() != ClassifierFreeGuidance()
    assert repr(Pair(Pair("a"), second=None)) == "Pair(first=Pair(first='a', second=2), second=None)"
    assert repr(GaussianDiffusion(prediction="v")) == (
        "GaussianDiffusion(schedule=FlowLinear(), prediction='v', times=LogitNormalTimes(mean=0.0, std=1.0))"
    )
    assert len({Heun(), Heun(), Pair(1)}) == 2


def test_nested_objects_come_back():
    pair = Pair(Pair(GaussianDiffusion(VPCosine(500))), second=[1, 2])
    assert Pair.from_config(pair.get_config()) == pair
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pair)) == pair


def test_a_layer_keeps_its_own_keys_and_its_objects():
    layer = Scale(Pair(1), factor=3.0, name="mine", dtype="mixed_bfloat16", trainable=False)
    clone = Scale.from_config(layer.get_config())
    assert (clone.name, clone.factor, clone.pair, clone.trainable) == ("mine", 3.0, Pair(1), False)
    assert clone.dtype_policy.name == "mixed_bfloat16"
    assert clone.get_config() == layer.get_config()


def test_an_argument_that_is_not_kept_is_named():
    with pytest.raises(TypeError, match="Forgetful must keep its argument `lost` as an attribute"):
        Forgetful(1).get_config()


def test_register_gives_a_name_that_files_carry():
    assert keras.saving.get_registered_name(Pair) == "keras_mmai>Pair"
    assert keras.saving.get_registered_object("keras_mmai>VectorQuantizer") is VectorQuantizer


def test_a_part_that_was_compiled_loses_its_compile_config():
    network = DiT((4, 1), patch_size=2, hidden_dim=8, num_layers=1, num_heads=2)
    network.compile("adam")
    config = Generator(network, GaussianDiffusion()).get_config()
    assert "compile_config" not in config["network"]
    assert config["network"]["config"]["hidden_dim"] == 8
