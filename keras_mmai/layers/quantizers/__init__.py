"""Latents to codes and back, in one contract: `Quantizer`."""

from keras_mmai.layers.quantizers.composed import GroupedQuantizer, ResidualQuantizer
from keras_mmai.layers.quantizers.finite_scalar import FiniteScalarQuantizer
from keras_mmai.layers.quantizers.lookup_free import LookupFreeQuantizer
from keras_mmai.layers.quantizers.quantizer import Quantizer
from keras_mmai.layers.quantizers.search import nearest_code, perplexity
from keras_mmai.layers.quantizers.simvq import SimVQ
from keras_mmai.layers.quantizers.vector import VectorQuantizer

__all__ = [
    "FiniteScalarQuantizer",
    "GroupedQuantizer",
    "LookupFreeQuantizer",
    "Quantizer",
    "ResidualQuantizer",
    "SimVQ",
    "VectorQuantizer",
    "nearest_code",
    "perplexity",
]
