"""What a model of images, sounds and words of digits has learned, in six pictures.

    python examples/any_to_any.py --output out && python examples/look_inside.py out/generator.keras --output inside

Where a word looks in the image that it is generated from, checked by deletion; how many nats image and sound each tell
of the word, and where the lower half of the image is black; the loss of each signal at each noise level; and
signals on their way from noise. Writes report.json.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from recipe import digit_signals

from keras_mmai import inspection

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("generator", type=pathlib.Path, help="generator.keras of examples/any_to_any.py")
parser.add_argument("--output", type=pathlib.Path, default="inside")
parser.add_argument("--smoke", action="store_true", help="few digits")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
generator = keras.models.load_model(args.generator)
count = 10 if args.smoke else 300
signals = {name: x[:count] for name, x in digit_signals()[1][0].items()}
half = np.where(np.arange(28)[:, None, None] < 14, signals["image"], -1.0).astype("float32")
pair = {name: signals[name] for name in ("image", "word")}

found = {
    "attention of the word": inspection.attention_map(
        generator, pair, "image", "word", path=args.output / "attention.png"
    ),
    "importance for the word": inspection.modality_importance(
        generator, signals, "word", path=args.output / "importance.png"
    ),
    "importance with half of the image": inspection.modality_importance(
        generator, {**signals, "image": half}, "word", path=args.output / "importance_half.png"
    ),
    "losses, nothing given": inspection.noise_level_losses(generator, signals, path=args.output / "levels.png"),
    "losses, word given": inspection.noise_level_losses(
        generator, signals, ["word"], path=args.output / "levels_of_word.png"
    ),
}
inspection.denoising_trajectory(generator, num_samples=3, seed=1, path=args.output / "trajectory.png")
skipped = {"figure", "map", "each"}
report = {title: {key: value for key, value in one.items() if key not in skipped} for title, one in found.items()}
for one in report.values():
    if "coalitions" in one:
        one["coalitions"] = {" and ".join(names) or "nothing": value for names, value in one["coalitions"].items()}
text = json.dumps(report, indent=1, default=lambda values: values.tolist())
print(text)
(args.output / "report.json").write_text(text)
