"""Weights published elsewhere, read by tables of names."""

from keras_mmai.checkpoints.dit import load_dit_weights

__all__ = ["load_dit_weights"]
