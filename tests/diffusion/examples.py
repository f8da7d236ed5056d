"""An example of every public object of `keras_mmai.diffusion`. A new one needs an entry here, and nothing else."""

import inspect

from keras_mmai import diffusion
from keras_mmai.serialization import Configurable

ABSTRACT = (diffusion.MaskedSampler, diffusion.Sampler, diffusion.Schedule, diffusion.Times)
EXAMPLES = {
    "Ancestral": diffusion.Ancestral(),
    "ClassifierFreeGuidance": diffusion.ClassifierFreeGuidance(2.0, (0.1, 0.9)),
    "CosineMasking": diffusion.CosineMasking(),
    "PolynomialMasking": diffusion.PolynomialMasking(3.0),
    "DDIM": diffusion.DDIM(),
    "Euler": diffusion.Euler(),
    "FlowLinear": diffusion.FlowLinear(),
    "GaussianDiffusion": diffusion.GaussianDiffusion(diffusion.VPCosine(500), "v", diffusion.UniformTimes()),
    "Heun": diffusion.Heun(),
    "LogitNormalTimes": diffusion.LogitNormalTimes(0.5, 2.0),
    "MaskGIT": diffusion.MaskGIT(0.9, 0.95, randomness=2.0),
    "MaskedAncestral": diffusion.MaskedAncestral(remasking=0.1),
    "MaskedDiffusion": diffusion.MaskedDiffusion(5, diffusion.CosineMasking(), diffusion.LogitNormalTimes()),
    "UniformTimes": diffusion.UniformTimes(),
    "VPCosine": diffusion.VPCosine(),
    "VPLinear": diffusion.VPLinear(),
}
PUBLIC = sorted(
    name
    for name in diffusion.__all__
    if inspect.isclass(cls := getattr(diffusion, name)) and issubclass(cls, Configurable) and cls not in ABSTRACT
)
SCHEDULES = [each for each in EXAMPLES.values() if isinstance(each, diffusion.Schedule)]
MASKINGS = [diffusion.CosineMasking(), diffusion.PolynomialMasking(3.0)]
GAUSSIAN_SCHEDULES = [each for each in SCHEDULES if each not in MASKINGS]  # their alpha ends too flat
MASKED_SAMPLERS = [each for each in EXAMPLES.values() if isinstance(each, diffusion.MaskedSampler)]
PROCESSES = [
    EXAMPLES["MaskedDiffusion"],
    diffusion.MaskedDiffusion(5),
    EXAMPLES["GaussianDiffusion"],
    *(diffusion.GaussianDiffusion(prediction=prediction) for prediction in ("data", "noise", "velocity")),
]
SAMPLERS = [
    *(each for each in EXAMPLES.values() if isinstance(each, diffusion.Sampler) and each not in MASKED_SAMPLERS),
    diffusion.Ancestral(eta=0.5),
]
DETERMINISTIC = [*(each for each in SAMPLERS if not each.stochastic), diffusion.Ancestral(eta=0.0)]
