"""keras_mmai: any signal becomes tokens, and one diffusion transformer generates them.

Four rooms: `layers` (blocks with weights), `tokenizers` (signal <-> tokens), `diffusion` (mathematics without
weights), and the models, which are here at the top. Around them `data`, `metrics`, `callbacks`, `visualization`,
`inspection`, `checkpoints`, `presets`.
"""

from keras_mmai import (
    callbacks,
    checkpoints,
    data,
    diffusion,
    inspection,
    layers,
    memory,
    metrics,
    presets,
    tokenizers,
    visualization,
)
from keras_mmai.models import (
    DiffusionTransformer,
    DiT,
    Generator,
    Modality,
    MultimodalDiffusionTransformer,
    MultimodalDiT,
    MultimodalGenerator,
)
from keras_mmai.tokenizers import VAE, VQVAE
from keras_mmai.version import __version__

__all__ = [
    "VAE",
    "VQVAE",
    "DiT",
    "DiffusionTransformer",
    "Generator",
    "Modality",
    "MultimodalDiT",
    "MultimodalDiffusionTransformer",
    "MultimodalGenerator",
    "__version__",
    "callbacks",
    "checkpoints",
    "data",
    "diffusion",
    "inspection",
    "layers",
    "memory",
    "metrics",
    "presets",
    "tokenizers",
    "visualization",
]
