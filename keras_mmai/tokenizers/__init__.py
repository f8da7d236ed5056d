"""Raw signals to tokens and back."""

from keras_mmai.tokenizers.spectral import SpectralLoss
from keras_mmai.tokenizers.streaming import Stream
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer
from keras_mmai.tokenizers.usage import CodesInUse, Perplexity
from keras_mmai.tokenizers.vae import VAE
from keras_mmai.tokenizers.vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "CodesInUse", "Perplexity", "SpectralLoss", "Standardize", "Stream", "Tokenizer"]
