"""keras_mmai: any signal becomes tokens, and one diffusion transformer generates them.

Four rooms: `layers` (blocks with weights), `tokenizers` (signal <-> tokens), `diffusion` (mathematics without
weights), and the models, which are here at the top. Around them `data`, `metrics`, `callbacks`, `visualization`,
`checkpoints`.
"""

import os

# TensorFlow's usual CPU allocator hands memory back to the system after every step and faults it in again in the next,
# which took up to half of a training step; this one of its allocators keeps it. It is read at TensorFlow's first op.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

from keras_mmai import callbacks, checkpoints, data, diffusion, layers, metrics, tokenizers, visualization
from keras_mmai.models import DiffusionTransformer, DiT, Generator
from keras_mmai.tokenizers import VAE, VQVAE
from keras_mmai.version import __version__

__all__ = [
    "VAE",
    "VQVAE",
    "DiT",
    "DiffusionTransformer",
    "Generator",
    "__version__",
    "callbacks",
    "checkpoints",
    "data",
    "diffusion",
    "layers",
    "metrics",
    "tokenizers",
    "visualization",
]
