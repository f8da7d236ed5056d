"""A causal video tokenizer on moving digits: 4 frames of 4x4 pixels become one of 512 codes.

    python examples/video_tokenizer.py --output video_run

The first frame is a token grid by itself, so an image is a video of one frame; later frames never change earlier
tokens, so a video can be coded as it arrives. Writes a film strip, GIFs and the trained tokenizer.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

from keras_mmai import VQVAE
from keras_mmai.data import load_mnist, moving_digits
from keras_mmai.layers import VectorQuantizer
from keras_mmai.metrics import psnr
from keras_mmai.tokenizers import Stream
from keras_mmai.visualization import filmstrip, save_gif

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=pathlib.Path, default="video_run")
parser.add_argument("--videos", type=int, default=1600)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--smoke", action="store_true", help="a few steps on a few videos")
args = parser.parse_args()
if args.smoke:
    args.videos, args.epochs = 16, 1
keras.utils.set_random_seed(0)
digits = load_mnist()
shape = dict(num_frames=9, size=(48, 48))
train = moving_digits(**digits["train"], n=args.videos, **shape)["videos"]
test = moving_digits(**digits["test"], n=8 if args.smoke else 100, seed=1, **shape)["videos"]

tokenizer = VQVAE(
    train.shape[1:],
    filters=(32, 64),  # each with a stride of 2 in time, height and width
    causal=True,
    quantizer=VectorQuantizer(512, 64, code_dim=8),
    data_variance=float(train.var()),
    ema_decays=(0.99,),
)
steps = args.epochs * (args.videos // 16)
warm = steps // 20
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=1e-3, warmup_steps=warm)
tokenizer.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0))
tokenizer.fit(train, batch_size=16, epochs=args.epochs, validation_data=(test,), verbose=2)
tokenizer.assign_averages()

out = tokenizer.predict(test, batch_size=16, verbose=0)["outputs"].clip(-1, 1)
copied = np.concatenate([test[:, :1], test[:, :-1]], axis=1)
guesses = {"tokenizer": out, "previous frame": copied, "mean": 0 * test + train.mean(), "black": 0 * test - 1}
report = {}
for name, guess in guesses.items():  # of all frames but the first, on pixels in [0, 1]
    error = float(np.mean((guess - test)[:, 1:] ** 2) / 4)
    report[name] = {"mse": error, "psnr_db": float(np.mean(psnr(test[:, 1:], guess[:, 1:])))}
report["bits_per_video"] = tokenizer.bits
stream = Stream(tokenizer)
parts = [keras.ops.convert_to_numpy(stream.encode(test[:4, a:b])) for a, b in ((0, 1), (1, 5), (5, 9))]
whole = keras.ops.convert_to_numpy(tokenizer.encode(test[:4]))
report["streamed codes that differ"] = int(np.sum(np.concatenate(parts, axis=1) != whole))
print(json.dumps(report, indent=1))
args.output.mkdir(parents=True, exist_ok=True)
(args.output / "report.json").write_text(json.dumps(report, indent=1))
filmstrip(np.stack([test[:3], out[:3]], 1).reshape(-1, *test.shape[1:]), path=args.output / "filmstrip.png")
save_gif(np.concatenate([test[:4], out[:4]]), args.output / "videos.gif")
tokenizer.save(args.output / "tokenizer.keras")
