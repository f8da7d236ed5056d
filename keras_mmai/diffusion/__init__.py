"""Diffusion as pure mathematics on tensors: `keras.ops` only, no layers, no weights.

Time t is float32 in [0, 1] everywhere: t = 0 is data, t = 1 is noise. With data x and unit Gaussian noise eps,

    x_t = alpha(t) x + sigma(t) eps                                   (1)  schedules: alpha, sigma
    y   = a(t) x + b(t) eps                                           (2)  prediction: what the network learns

    name        a           b
    data        1           0
    noise       0           1
    velocity    d alpha/dt  d sigma/dt
    v           -sigma      alpha

Solving (1) and (2) turns any network's output y into an estimate of data and noise, with D = alpha b - sigma a,

    x_hat = (b x_t - sigma y) / D,   eps_hat = (alpha y - a x_t) / D  (3)  process: split

and the path from noise to data that keeps the distributions of all x_t is the probability-flow ODE

    dx/dt = (d alpha/dt) x_hat(x, t) + (d sigma/dt) eps_hat(x, t)     (4)  samplers

so that every prediction works with every schedule and every sampler. Where D = 0 (noise prediction at alpha = 0, data
prediction at sigma = 0) the smallest solution of (1) and (2) takes the place of (3).

Discrete tokens are masked instead: equations (5) and (6) of `keras_mmai.diffusion.masked`.
"""

from keras_mmai.diffusion.guidance import ClassifierFreeGuidance
from keras_mmai.diffusion.masked import (
    CosineMasking,
    MaskedAncestral,
    MaskedDiffusion,
    MaskedSampler,
    MaskGIT,
    PolynomialMasking,
)
from keras_mmai.diffusion.process import Denoiser, GaussianDiffusion
from keras_mmai.diffusion.samplers import DDIM, Ancestral, Euler, Heun, Sampler
from keras_mmai.diffusion.schedules import (
    FlowLinear,
    Schedule,
    VPCosine,
    VPLinear,
    cosine_betas,
    gaussian_tables,
    linear_betas,
    respace,
    respaced_times,
    timestep_map,
    uniform_times,
)
from keras_mmai.diffusion.times import LogitNormalTimes, Times, UniformTimes, stratified
from keras_mmai.noise import normal, threefry_2x32, uniform

__all__ = [
    "DDIM",
    "Ancestral",
    "ClassifierFreeGuidance",
    "CosineMasking",
    "Denoiser",
    "Euler",
    "FlowLinear",
    "GaussianDiffusion",
    "Heun",
    "LogitNormalTimes",
    "MaskGIT",
    "MaskedAncestral",
    "MaskedDiffusion",
    "MaskedSampler",
    "PolynomialMasking",
    "Sampler",
    "Schedule",
    "Times",
    "UniformTimes",
    "VPCosine",
    "VPLinear",
    "cosine_betas",
    "gaussian_tables",
    "linear_betas",
    "normal",
    "respace",
    "respaced_times",
    "stratified",
    "threefry_2x32",
    "timestep_map",
    "uniform",
    "uniform_times",
]
