"""What users `fit` and sample from."""

from keras_mmai.models.diffusion_transformer import DiffusionTransformer
from keras_mmai.models.dit import DiT
from keras_mmai.models.generator import Generator

__all__ = ["DiT", "DiffusionTransformer", "Generator"]
