"""Raw signals to tokens and back."""

from keras_mmai.tokenizers.bpe import BPETokenizer
from keras_mmai.tokenizers.characters import CharacterTokenizer
from keras_mmai.tokenizers.label import LabelTokenizer
from keras_mmai.tokenizers.lossless import LosslessTokenizer, PassThrough
from keras_mmai.tokenizers.spectral import SpectralLoss
from keras_mmai.tokenizers.streaming import Stream
from keras_mmai.tokenizers.text import ByteTokenizer, TextTokenizer
from keras_mmai.tokenizers.tiling import Tiles
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer
from keras_mmai.tokenizers.usage import CodesInUse, Perplexity
from keras_mmai.tokenizers.vae import VAE
from keras_mmai.tokenizers.vqvae import VQVAE
from keras_mmai.tokenizers.vqvae2 import VQVAE2

__all__ = [
    "VAE",
    "VQVAE",
    "VQVAE2",
    "BPETokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "CodesInUse",
    "LabelTokenizer",
    "LosslessTokenizer",
    "PassThrough",
    "Perplexity",
    "SpectralLoss",
    "Standardize",
    "Stream",
    "TextTokenizer",
    "Tiles",
    "Tokenizer",
]
