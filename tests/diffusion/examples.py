"""An example of every public object of `keras_mmai.diffusion`. A new one needs an entry here, and nothing else."""

import inspect

from keras_mmai import diffusion
from keras_mmai.serialization import Configurable

ABSTRACT = (diffusion.Sampler, diffusion.Schedule, diffusion.Times)
EXAMPLES = {
    "Ancestral": diffusion.Ancestral(),
    "ClassifierFreeGuidance": diffusion.ClassifierFreeGuidance(2.0, (0.1, 0.9)),
    "DDIM": diffusion.DDIM(),
    "Euler": diffusion.Euler(),
    "FlowLinear": diffusion.FlowLinear(),
    "GaussianDiffusion": diffusion.GaussianDiffusion(diffusion.VPCosine(500), "v", diffusion.UniformTimes()),
    "Heun": diffusion.Heun(),
    "LogitNormalTimes": diffusion.LogitNormalTimes(0.5, 2.0),
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
SAMPLERS = [*(each for each in EXAMPLES.values() if isinstance(each, diffusion.Sampler)), diffusion.Ancestral(eta=0.5)]
DETERMINISTIC = [*(each for each in SAMPLERS if not each.stochastic), diffusion.Ancestral(eta=0.0)]
