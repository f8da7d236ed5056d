"""Looking inside a `MultimodalGenerator`: one call, one dict of numbers, one picture.

Every function returns a dict, whose "figure" is a `matplotlib.figure.Figure`, written as a PNG where `path` says so.
"""

from keras_mmai.inspection.attention import attention_map
from keras_mmai.inspection.importance import modality_importance
from keras_mmai.inspection.levels import noise_level_losses
from keras_mmai.inspection.trajectory import denoising_trajectory

__all__ = ["attention_map", "denoising_trajectory", "modality_importance", "noise_level_losses"]
