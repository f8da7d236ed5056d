"""What users `fit` and sample from."""

from keras_mmai.models.diffusion_transformer import DiffusionTransformer
from keras_mmai.models.dit import DiT
from keras_mmai.models.generator import Generator
from keras_mmai.models.modality import Modality
from keras_mmai.models.multimodal import MultimodalDiffusionTransformer
from keras_mmai.models.multimodal_dit import MultimodalDiT
from keras_mmai.models.multimodal_generator import MultimodalGenerator
from keras_mmai.models.token_space import TokenSpace

__all__ = [
    "DiT",
    "DiffusionTransformer",
    "Generator",
    "Modality",
    "MultimodalDiT",
    "MultimodalDiffusionTransformer",
    "MultimodalGenerator",
    "TokenSpace",
]
