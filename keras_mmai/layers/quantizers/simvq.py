"""SimVQ (Zhu et al. 2024, arXiv:2411.02038): the codes are drawn once, and one linear map of all of them is learned by
the codebook loss, so that each step moves every code and none is left behind.

The steps of Adam are of one size whatever the gradient's. So the codes, which begin as N(0, 1 / width) as in the paper,
are drawn `SPREAD` sqrt(width) times as large and the map begins that much smaller: each of its steps then moves the
codes that much further, and they keep up with latents that grow to several standard deviations in the first epoch.
"""

import keras
from keras import ops

from keras_mmai.layers.quantizers.quantizer import STATE, unit
from keras_mmai.layers.quantizers.vector import CodebookQuantizer
from keras_mmai.serialization import register

SPREAD = 8.0


@register
class SimVQ(CodebookQuantizer):
    """Codes that are drawn once and move together, by a linear map that is learned.

    Call, outputs and masks: see `Quantizer`. Losses: "commitment" and "codebook".

    Args:
        num_embeddings: int k, number of codes.
        embedding_dim: int, width of the latents.
        distance: "euclidean", or "cosine": latents and codes are compared, and given out, at unit length.
        commitment_weight: float, beta.
        code_dim: int, width of the codes, to which the latents are projected; None is `embedding_dim`.
        seed: int or None.

    Raises:
        ValueError: at construction on a word or number out of range; when called on latents of another width.
    """

    loss_names = ("commitment", "codebook")

    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        distance="euclidean",
        commitment_weight=0.25,
        code_dim=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            num_embeddings, embedding_dim, code_dim or embedding_dim, distance, commitment_weight, **kwargs
        )
        self.seed = seed

    def build_codes(self):
        self.basis = self.add_weight(
            shape=(self.num_embeddings, self.code_dim),
            initializer=keras.initializers.RandomNormal(stddev=SPREAD, seed=self.seed),
            name="basis",
            **STATE,
        )
        start = keras.initializers.Identity(gain=self.code_dim**-0.5 / SPREAD)
        self.map = keras.layers.Dense(self.code_dim, kernel_initializer=start, name="map", dtype="float32")
        self.map.build((None, self.code_dim))
        self.add_use()

    @property
    def codes(self):
        codebook = self.map(ops.convert_to_tensor(self.basis))
        return unit(codebook) if self.distance == "cosine" else codebook
