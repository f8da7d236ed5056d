"""A modality of one's own: a table of readings, beside a label, without touching the package.

    python examples/own_modality.py --output out

Thirteen chemical readings of 178 wines of three growers (the mlxtend package). One model tells the grower from any of
the readings, fills in readings that are missing, and makes up wines of a grower, after a minute or two.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from mlxtend.data import wine_data

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.serialization import register
from keras_mmai.tokenizers import LabelTokenizer, LosslessTokenizer


@register
class Readings(LosslessTokenizer):
    """Readings (b, n) to latents (b, n, 1), each of mean 0 and deviation 1, and back."""

    def __init__(self, mean, deviation, **kwargs):
        super().__init__((len(mean), 1), **kwargs)
        self.mean, self.deviation = list(mean), list(deviation)
        self.latent_shape = self.token_shape

    def encode(self, x):
        if np.shape(x)[1:] != (len(self.mean),):
            raise ValueError(f"Readings are (b, {len(self.mean)}). Received: shape {np.shape(x)}")
        return ((np.asarray(x) - self.mean) / self.deviation).astype("float32")[..., None]

    def decode(self, latents):
        return np.asarray(latents)[..., 0] * self.deviation + self.mean


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=pathlib.Path, default="own_modality")
parser.add_argument("--smoke", action="store_true", help="a few steps")
args = parser.parse_args()
keras.utils.set_random_seed(0)
x, y = wine_data()
order = np.random.RandomState(0).permutation(len(x))
x, y = x[order].astype("float32"), y[order].astype("int32")
train, test = {"readings": x[:120], "grower": y[:120]}, {"readings": x[120:], "grower": y[120:]}

mean, deviation = (values.astype("float64").tolist() for values in (x[:120].mean(0), x[:120].std(0)))
modalities = [Modality("readings", Readings(mean, deviation)), Modality("grower", LabelTokenizer(3))]
network = MultimodalDiT(modalities, hidden_dim=64, num_layers=3, num_heads=4)
model = MultimodalDiffusionTransformer(modalities, network, ema_decays=(0.99,), seed=0)
epochs = 2 if args.smoke else 400
model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, epochs * 2)))
most = np.random.RandomState(1).rand(120, 13) < 0.7  # in training some readings are missing
model.fit({**train, "present": {"readings": most}}, batch_size=60, epochs=epochs, verbose=0)

generator = model.generator(num_steps=20)
report = {}
for share in (1.0, 0.5, 0.25):
    here = np.random.RandomState(2).rand(*test["readings"].shape) < share
    p = generator.classify({"readings": test["readings"]}, "grower", present={"readings": here})
    report[f"growers told from {share:.0%} of the readings"] = float(np.mean(p.argmax(1) == test["grower"]))
known = np.random.RandomState(3).rand(*test["readings"].shape) < 0.5
given = {"readings": test["readings"]}
draws = [generator.generate(given, ["readings"], {"readings": known}, seed=i)["readings"] for i in range(8)]
filled = np.mean(draws, axis=0)
errors = {"mean of 8 fillings": filled - test["readings"], "the mean instead": mean - test["readings"]}
report["error over deviation"] = {
    name: float(np.sqrt(np.mean((error / deviation)[~known] ** 2))) for name, error in errors.items()
}
made = generator.generate({"grower": test["grower"]})["readings"]
labels = generator.classify({"readings": made}, "grower").argmax(1)
report["made-up wines of the right grower"] = float(np.mean(labels == test["grower"]))
print(json.dumps(report, indent=1))
args.output.mkdir(parents=True, exist_ok=True)
(args.output / "report.json").write_text(json.dumps(report, indent=1))
generator.save(args.output / "generator.keras")
