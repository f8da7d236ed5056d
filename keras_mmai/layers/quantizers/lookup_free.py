"""Lookup-free quantization: one bit for each channel (Yu et al. 2023, arXiv:2310.05737, section 3.1).

The code of a latent z in d channels is its signs, c in {-1, 1}^d. The entropy loss (their eq. 5) asks for certain codes
and for an even use of all of them,

    E_z H(p(. | z)) - gamma H(E_z p(. | z)),        p(c | z) ~ exp(2 z.c / temperature)

over K = 2^d codes. p factorises into bits, so both are exact without an (n, K) tensor: the first is a sum over bits;
the average of the second is P1' P2 / n, with P1 and P2 (n, 2^{d/2}) the distributions of the two halves of the bits.

The spherical form is binary spherical quantization (Zhao, Xiong & Kraehenbuehl 2024, arXiv:2406.07548): latents and
codes at unit length, c in {-1, 1}^d / sqrt(d).
"""

import numpy as np
from keras import ops

from keras_mmai import noise
from keras_mmai.layers.quantizers.quantizer import (
    Quantizer,
    check_vocabulary,
    mean_over,
    mean_square,
    straight_through,
    unit,
)
from keras_mmai.serialization import register


@register
class LookupFreeQuantizer(Quantizer):
    """The signs of `num_bits` channels as a code: 2 ** num_bits codes, without a codebook.

    Call, outputs and masks: see `Quantizer`. The first channel is the lowest bit. Losses: "commitment" and "entropy".

    Args:
        num_bits: int d, at most 24.
        embedding_dim: int, width of the latents; None is `num_bits`. Another width is projected.
        spherical: bool, latents and codes at unit length.
        commitment_weight: float.
        entropy_weight: float of the entropy loss; 0 turns it off.
        diversity_weight: float, gamma.
        temperature: float > 0 of the entropy loss.

    Raises:
        ValueError: on a number out of range, or latents of another width.
    """

    loss_names = ("commitment", "entropy")

    def __init__(
        self,
        num_bits=9,
        embedding_dim=None,
        spherical=False,
        commitment_weight=0.25,
        entropy_weight=0.1,
        diversity_weight=1.0,
        temperature=0.01,
        **kwargs,
    ):
        if num_bits < 1 or temperature <= 0:
            raise ValueError(
                f"`num_bits` and `temperature` must be positive. Received: num_bits={num_bits}, "
                f"temperature={temperature}"
            )
        check_vocabulary(2**num_bits, f"num_bits={num_bits}")
        super().__init__(embedding_dim or num_bits, num_bits, **kwargs)
        self.num_bits = num_bits
        self.spherical = spherical
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.diversity_weight = diversity_weight
        self.temperature = temperature
        self.vocabulary = 2**num_bits

    @property
    def scale(self):
        """The absolute value of each channel of a code."""
        return self.num_bits**-0.5 if self.spherical else 1.0

    def compared(self, rows):
        return unit(rows) if self.spherical else rows

    def encode_rows(self, rows, valid, leading_shape, training):
        rows = self.compared(rows)
        bits = rows > 0
        signs = ops.where(bits, self.scale, -self.scale)
        codes = ops.sum(ops.cast(bits, "int32") * self._basis(), axis=-1)
        losses = {"commitment": self.commitment_weight * mean_square(valid, rows, signs), "entropy": ops.zeros(())}
        if self.entropy_weight:
            each, overall = bit_entropies(4.0 * self.scale / self.temperature * rows, valid)
            losses["entropy"] = self.entropy_weight * (each - self.diversity_weight * overall)
        if training:
            self.track_use(codes, valid)
        return straight_through(rows, signs), codes, losses

    def sample_rows(self, rows, seed, temperature):
        chance = ops.sigmoid(4.0 * self.scale / temperature * self.compared(rows))
        bits = noise.uniform(seed, (self.num_bits,)) < chance
        return ops.sum(ops.cast(bits, "int32") * self._basis(), axis=-1)

    def _basis(self):
        return ops.convert_to_tensor(2 ** np.arange(self.num_bits), dtype="int32")

    def lookup_rows(self, codes):
        bits = (codes[:, None] // self._basis()) % 2
        return ops.where(bits > 0, self.scale, -self.scale)


def bit_entropies(logits, valid):
    """Entropies in nats of independent bits with P(bit = 1) = sigmoid(logits), (n, d), over the valid rows.

    Returns the mean over rows of the entropy of a row, and the entropy of the mean distribution over the 2 ** d codes:
    float32 scalars. Memory grows with n 2^{d/2} + 2^d.
    """
    size = ops.abs(logits)
    each = mean_over(valid, ops.sum(ops.softplus(-size) + size * ops.sigmoid(-size), axis=-1))
    half = logits.shape[-1] // 2
    low, high = code_probabilities(logits[:, :half]), code_probabilities(logits[:, half:])
    weight = ops.cast(valid, "float32")[:, None]
    p = ops.matmul(ops.transpose(low * weight), high) / ops.maximum(ops.sum(weight), 1.0)
    return each, -ops.sum(p * ops.log(p + 1e-20))


def code_probabilities(logits):
    """Probabilities (n, 2 ** d) of the codes of d independent bits with the given logits (n, d)."""
    n, dim = ops.shape(logits)[0], logits.shape[-1]
    p = ops.ones((n, 1))
    for bit in range(dim):
        one = ops.sigmoid(logits[:, bit : bit + 1])
        p = ops.concatenate([p * (1.0 - one), p * one], axis=-1)
    return p
