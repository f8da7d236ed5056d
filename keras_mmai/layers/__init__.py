"""Blocks with weights, of any rank, that know nothing of diffusion or data."""

from keras_mmai.layers.attention import SelfAttention
from keras_mmai.layers.coders import ConvDecoder, ConvEncoder, Framewise
from keras_mmai.layers.conditioning import LabelEmbedding, TimestepEmbedding, timestep_embedding
from keras_mmai.layers.convolution import CausalConvolution, ResidualStack
from keras_mmai.layers.dit import DiTBlock, DiTOutput, JointDiTBlock, Modulation
from keras_mmai.layers.feed_forward import FeedForward, SwiGLU
from keras_mmai.layers.fourier import FourierAnalysis, FourierSynthesis
from keras_mmai.layers.patches import PatchEmbed, patchify, unpatchify
from keras_mmai.layers.positions import apply_rotary, rotary_tables, sincos_positions
from keras_mmai.layers.quantizers import (
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
    nearest_code,
    perplexity,
)
from keras_mmai.layers.seanet import DilatedResidual, SEANetDecoder, SEANetEncoder, Snake
from keras_mmai.layers.tokens import TokenEmbedding

__all__ = [
    "CausalConvolution",
    "ConvDecoder",
    "ConvEncoder",
    "DiTBlock",
    "DiTOutput",
    "DilatedResidual",
    "FeedForward",
    "FiniteScalarQuantizer",
    "FourierAnalysis",
    "FourierSynthesis",
    "Framewise",
    "GroupedQuantizer",
    "JointDiTBlock",
    "LabelEmbedding",
    "LookupFreeQuantizer",
    "Modulation",
    "PatchEmbed",
    "ResidualQuantizer",
    "ResidualStack",
    "SEANetDecoder",
    "SEANetEncoder",
    "SelfAttention",
    "SimVQ",
    "Snake",
    "SwiGLU",
    "TimestepEmbedding",
    "TokenEmbedding",
    "VectorQuantizer",
    "apply_rotary",
    "nearest_code",
    "patchify",
    "perplexity",
    "rotary_tables",
    "sincos_positions",
    "timestep_embedding",
    "unpatchify",
]
