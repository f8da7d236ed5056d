"""Several modalities in one model: a training step beside transfusion-pytorch, coherence beside MultiVae's joint VAEs.

    pip install -c constraints.txt transfusion-pytorch==0.20.0 multivae==1.0.3
    python benchmarks/joint.py speed --backends tensorflow jax torch --rounds 5
    python benchmarks/joint.py vaes --seconds 300 --output joint_out

`speed`: a step forward, backward and of AdamW with one moving average of the weights, on text ids and image latents of
one batch, against transfusion-pytorch in eager PyTorch. Every contestant is a process on the same cores. Printed are
medians over rounds, and the median of the peer's time by ours: above 1 is faster than the peer. Width, layers, heads
and feed-forward width (gated, 8/3 of the width) are the same. What differs: the peer's sequence also has its own tokens
for the beginning and end of the text and the image and for the image's shape, some ten; its text is causal with the
next token's loss, ours is masked; each of its image tokens is conditioned on its time by layers of its own, from four
times the width, where ours spends them once for each modality; it caps the logits of attention, mixes the layers'
outputs, and has skip connections, without which this version does not run. Its gated values are off.

`vaes`: MMVAE+, MVTCAE and MoPoE on the data of examples/any_to_any.py, judged by the same classifiers. They see tokens
as the transformer does: latents of image and sound by the example's tokenizers, which are trained here as there and
decode what the VAEs make (snapped to the nearest codes), and letters. With `--generator` both tokenizers are those of
the example's generator.keras, and it is judged beside them. Hyper-parameters are those of MultiVae's own examples;
each likelihood is rescaled to that of one of their images, for which their weight of the divergence was chosen. A tenth
of the training data is held out, and the epoch with the least loss on it is kept. "joint" samples the prior; "joint of
mixture" MultiVae's mixture of ten Gaussians, fitted to the training data's posteriors. A VAE gives the mean of what
could be, which a judge names readily: the Frechet distances in the judges' features tell how far from real signals
it is. Writes report.json.

MultiVae imports torchvision for its own data sets and pictures. A torchvision that was built for another PyTorch, as
that of PyPI beside the CPU wheel, fails; then stand-ins take its place, since nothing of it is used here.
"""

import argparse
import importlib
import itertools
import json
import os
import pathlib
import sys
import time
from unittest import mock

import contest
import numpy as np

TEXT_VOCABULARY, CHANNELS = 27, 4
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8000
POLYMNIST = 3 * 28 * 28  # numbers in an image of the peer's examples


def peer(args):
    import torch
    from transfusion_pytorch import Transfusion

    torch.manual_seed(0)
    model = Transfusion(
        num_text_tokens=TEXT_VOCABULARY,
        dim_latent=CHANNELS,
        modality_default_shape=(args.side, args.side),
        add_pos_emb=True,
        transformer=dict(
            dim=args.width,
            depth=args.layers,
            heads=args.heads,
            dim_head=args.width // args.heads,
            attn_kwargs=dict(gate_values=False),
        ),
    ).train()
    weights = list(model.parameters())
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
    text = torch.randint(0, TEXT_VOCABULARY, (args.batch, args.text))
    image = torch.randn(args.batch, args.side, args.side, CHANNELS)
    batch = [[ids, latents] for ids, latents in zip(text, image)]
    lengths = []
    hook = model.transformer.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))

    def step():
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1e-3)
        return loss.item()

    step()
    hook.remove()
    tell("peer", sum(p.numel() for p in weights), lengths[0])
    return {"step": step}


def ours(args):
    import keras

    from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
    from keras_mmai.tokenizers import PassThrough

    modalities = [
        Modality("text", PassThrough((args.text,), TEXT_VOCABULARY)),
        Modality("image", PassThrough((args.side, args.side, CHANNELS))),
    ]
    sizes = dict(hidden_dim=args.width, num_layers=args.layers, num_heads=args.heads, feed_forward="swiglu")
    network = MultimodalDiT(modalities, **sizes)
    model = MultimodalDiffusionTransformer(modalities, network, ema_decays=(0.999,), seed=0)
    # for TensorFlow on CPUs Keras turns XLA on only if asked
    backend = keras.backend.backend()
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.0), jit_compile=backend != "torch")
    random = np.random.RandomState(0)
    data = {
        "text": random.randint(0, TEXT_VOCABULARY, (args.batch, args.text)).astype("int32"),
        "image": random.randn(args.batch, args.side, args.side, CHANNELS).astype("float32"),
    }
    tell(backend, network.count_params(), args.text + args.side**2)
    return {"step": lambda: model.train_on_batch(data)}


def tell(name, parameters, tokens):
    # standard output belongs to the contest
    print(f"{name:11} {parameters:,} parameters, sequences of {tokens} tokens", file=sys.stderr, flush=True)


def speed(args):
    if args.contestant:
        return contest.answer((peer if args.contestant == contest.PEER else ours)(args))
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)  # the contestants inherit both
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    print(
        f"width {args.width}, {args.layers} layers, {args.heads} heads, {args.text} text and {args.side**2} image "
        f"tokens, batch {args.batch}, {args.rounds} rounds, {len(cores)} threads; peer = transfusion-pytorch, eager",
        flush=True,
    )
    sizes = ("width", "layers", "heads", "side", "text", "batch")
    arguments = ("speed", *(part for name in sizes for part in (f"--{name}", getattr(args, name))))
    results = contest.run(__file__, args.backends, ("step",), args.rounds, arguments)
    for name, (seconds, ratio) in results["step"].items():
        print(f"{name:11} {seconds * 1000:8.1f} ms   peer/ours {ratio:5.2f}")


def import_multivae():
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        parts = ("", ".datasets", ".datasets.utils", ".transforms", ".utils")
        sys.modules.update({f"torchvision{part}": mock.MagicMock() for part in parts})
    return importlib.import_module("multivae.models"), importlib.import_module("multivae.samplers")


def networks(shape, letters, latent_dim, style_dim):
    """An encoder and a decoder of signals `shape` (*s, c) by convolution, or of letters (n, vocabulary), dense."""
    import torch
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    *space, channels = shape
    convolution, transposed = (nn.Conv1d, nn.ConvTranspose1d) if len(space) == 1 else (nn.Conv2d, nn.ConvTranspose2d)
    sizes = [space]  # each half of the one before, until there are at most 8 places along an axis
    while not letters and (len(sizes) == 1 or max(sizes[-1]) > 8):
        sizes.append([(size + 1) // 2 for size in sizes[-1]])
    widths = [64, *(128 for _ in sizes[1:])]
    flat = int(np.prod(sizes[-1])) * widths[-1]

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.latent_dim, self.style_dim = latent_dim, style_dim
            if letters:
                self.body = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 512), nn.ReLU())
            else:
                layers = [convolution(channels, 64, 3, padding=1), nn.ReLU()]
                for before, after in itertools.pairwise(widths):
                    layers += [convolution(before, after, 3, stride=2, padding=1), nn.ReLU()]
                self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 512), nn.ReLU())
            self.heads = nn.Linear(512, 2 * (latent_dim + style_dim))

        def forward(self, x):
            parts = self.heads(self.body(x if letters else x.movedim(-1, 1)))
            mean, log_var, *style = parts.split([latent_dim] * 2 + [style_dim] * 2 * (style_dim > 0), -1)
            output = ModelOutput(embedding=mean, log_covariance=log_var)
            if style:
                output["style_embedding"], output["style_log_covariance"] = style
            return output

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(latent_dim + style_dim, 512), nn.ReLU()]
            if letters:
                layers += [nn.Linear(512, int(np.prod(shape))), nn.Unflatten(1, shape)]
            else:
                layers += [nn.Linear(512, flat), nn.ReLU(), nn.Unflatten(1, (widths[-1], *sizes[-1]))]
                for i in range(len(sizes) - 1, 0, -1):
                    odd = tuple(1 - size % 2 for size in sizes[i - 1])
                    options = dict(stride=2, padding=1, output_padding=odd)
                    layers += [transposed(widths[i], widths[i - 1], 3, **options), nn.ReLU()]
                layers.append(convolution(64, channels, 3, padding=1))
            self.body = nn.Sequential(*layers)

        def forward(self, z):
            x = self.body(z)
            return ModelOutput(reconstruction=x if letters else torch.movedim(x, 1, -1))

    return Encoder(), Decoder()


# name -> (class, its arguments, of Adam, batch), as in MultiVae's examples
VAES = {
    "MMVAE+": (
        "MMVAEPlus",
        dict(K=1, beta=2.5, latent_dim=32, modalities_specific_dim=32, prior_and_posterior_dist="laplace_with_softmax"),
        dict(lr=1e-3, amsgrad=True),
        32,
    ),
    "MVTCAE": ("MVTCAE", dict(beta=2.5, alpha=5 / 6, latent_dim=512), dict(lr=1e-3), 256),
    "MoPoE": ("MoPoE", dict(beta=2.5, latent_dim=512), dict(lr=1e-3), 256),
}


class JointVAE:
    """A VAE of MultiVae with what `metrics.coherence` asks of a generator."""

    def __init__(self, name, modalities):
        import torch

        from keras_mmai.models.tasks import fillings

        torch.manual_seed(0)
        models, self.samplers = import_multivae()
        kind, options, self.adam, self.batch = VAES[name]
        self.modalities, self.tasks, self.mixture = modalities, fillings(modalities), None
        shapes = {m.name: m.token_shape + ((m.vocabulary,) if m.vocabulary else ()) for m in modalities}
        letters = {m.name: m.vocabulary is not None for m in modalities}
        dims = options["latent_dim"], options.get("modalities_specific_dim", 0)
        pairs = {name: networks(shape, letters[name], *dims) for name, shape in shapes.items()}
        config = getattr(models, f"{kind}Config")(
            n_modalities=len(modalities),
            input_dims=shapes,
            uses_likelihood_rescaling=True,
            rescale_factors={name: POLYMNIST / float(np.prod(shape)) for name, shape in shapes.items()},
            decoders_dist={name: "categorical" if letters[name] else "laplace" for name in shapes},
            decoder_dist_params={name: {} if letters[name] else {"scale": 0.75} for name in shapes},
            **options,
        )
        encoders, decoders = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
        self.model = getattr(models, kind)(config, encoders, decoders)
        self.model.device = "cpu"

    def dataset(self, tokens):
        """Signals or tokens by modality as the peer's data; a modality without has zeros."""
        import torch
        from multivae.data.datasets import MultimodalBaseDataset

        rows, data = len(next(iter(tokens.values()))), {}
        for m in self.modalities:
            if m.name in tokens:
                x = np.asarray(m.encode(tokens[m.name]))
            else:
                x = np.zeros((rows, *m.token_shape), "int32" if m.vocabulary else "float32")
            data[m.name] = torch.tensor(np.eye(m.vocabulary, dtype="float32")[x] if m.vocabulary else x)
        return MultimodalBaseDataset(data)

    def fit(self, tokens, seconds, epochs):
        """Trains until the time or the epochs are over, and keeps the best epoch: {"epochs", "best", "seconds"}."""
        import torch
        from multivae.data.datasets import MultimodalBaseDataset

        data = self.dataset(tokens).data
        order = np.random.RandomState(0).permutation(len(next(iter(data.values()))))
        train, held_out = np.split(order, [len(order) * 9 // 10])
        optimizer = torch.optim.Adam(self.model.parameters(), **self.adam)
        start, epoch, best = time.time(), 0, (np.inf, 0, None)

        def losses(rows, training):
            self.model.train(training)
            for i in range(0, len(rows), self.batch):
                part = rows[i : i + self.batch]
                yield self.model(MultimodalBaseDataset({name: x[part] for name, x in data.items()}))

        while time.time() - start < seconds and (epochs is None or epoch < epochs):
            for output in losses(np.random.RandomState(epoch + 1).permutation(train), True):
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
            epoch += 1
            loss = sum(float(output.loss_sum.detach()) for output in losses(held_out, False)) / len(held_out)
            if loss < best[0]:
                best = loss, epoch, {name: x.clone() for name, x in self.model.state_dict().items()}
        if best[2] is None:
            raise SystemExit(f"No epoch in {seconds} s had a finite loss on the data held out: give more `--seconds`.")
        self.model.load_state_dict(best[2])
        self.model.eval()
        self.train = {name: x[train] for name, x in data.items()}
        return {"epochs": epoch, "best": best[1], "held-out loss": best[0], "seconds": time.time() - start}

    def fit_mixture(self):
        from multivae.data.datasets import MultimodalBaseDataset

        self.mixture = self.samplers.GaussianMixtureSampler(self.model)
        self.mixture.fit(MultimodalBaseDataset(self.train))

    def decode(self, tokens):
        import keras

        signals = {}
        for m in self.modalities:
            if m.vocabulary and m.name in tokens:
                signals[m.name] = m.tokenizer.decode(np.asarray(tokens[m.name]))
            elif m.name in tokens:
                x = tokens[m.name]
                parts = [m.tokenizer.decode(np.asarray(x[i : i + 100])) for i in range(0, len(x), 100)]
                signals[m.name] = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
        return signals

    def generate(self, given, want, num_samples=None, seed=0):
        import torch

        torch.manual_seed(seed)
        np.random.seed(seed)  # MMVAE+ chooses by it whom to believe, once for a call
        with torch.no_grad():
            if not given:
                sampler = self.mixture.sample if self.mixture else self.model.generate_from_prior
                out = [self.model.decode(sampler(num_samples), list(want))]
            else:
                data, out = self.dataset(given), []
                for i in range(0, len(data), 20):
                    part = type(data)({name: x[i : i + 20] for name, x in data.data.items()})
                    out.append(self.model.predict(part, cond_mod=list(given), gen_mod=list(want)))
        made = {name: torch.cat([part[name] for part in out]).cpu().numpy() for name in want}
        discrete = {m.name for m in self.modalities if m.vocabulary}
        return self.decode({name: x.argmax(-1).astype("int32") if name in discrete else x for name, x in made.items()})


def trained_tokenizers(train, epochs):
    """The tokenizers of examples/any_to_any.py, trained as there: {"image", "sound"}."""
    import keras

    import keras_mmai
    from keras_mmai.data import ArrayDataset
    from keras_mmai.layers import ResidualQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer
    from keras_mmai.tokenizers import SpectralLoss

    sizes = dict(strides=(4,), patch_size=32, fourier=True)
    tokenizers = {
        "image": keras_mmai.VQVAE((28, 28, 1), filters=(32, 64), quantizer=VectorQuantizer(512, 4)),
        "sound": keras_mmai.VQVAE(
            (2048, 1),
            encoder=SEANetEncoder(32, 16, **sizes),
            decoder=SEANetDecoder(32, 1, **sizes),
            quantizer=ResidualQuantizer([VectorQuantizer(64, 16), VectorQuantizer(64, 16)]),
            data_variance=100.0 * float(train["sound"].var()),
            perceptual_loss=SpectralLoss(RATE, mel_weight=15.0),
            sample_rate=RATE,
        ),
    }
    for name, tokenizer in tokenizers.items():
        data = ArrayDataset(train[name], batch_size=32)
        steps = epochs * len(data)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - steps // 20, warmup_target=2e-3, warmup_steps=steps // 20
        )
        tokenizer.compile(keras.optimizers.Adam(rate))
        tokenizer.fit(data, epochs=epochs, verbose=2)
    return tokenizers


def distances(generator, test, train, judges):
    """Frechet distances in the judges' features to training signals: of what is generated with the others and from
    them, and of real test signals."""

    from keras_mmai import metrics

    count, found = len(test["word"]), {}
    joint = generator.generate({}, list(test), num_samples=count, seed=1)
    for name in ("image", "sound"):
        others = {key: x for key, x in test.items() if key != name}
        signals = {
            "joint": joint[name],
            "from the others": generator.generate(others, [name], seed=1)[name],
            "real": test[name],
        }
        features = judges[name].features
        known = features(train[name][: 2 * count])
        found[name] = {key: float(metrics.frechet_distance(features(x), known)) for key, x in signals.items()}
    return found


def vaes(args):
    import keras

    from keras_mmai import Modality, memory, metrics
    from keras_mmai.data import dial_tones, load_mnist
    from keras_mmai.tokenizers import CharacterTokenizer, PassThrough

    keras.utils.set_random_seed(0)
    memory.keep_freed_memory()
    num_test, epochs = (20, 1) if args.smoke else (500, 8)
    args.epochs = 1 if args.smoke else args.epochs
    digits = load_mnist()

    def signals(part, seed, count):
        labels = part["labels"]
        sound = dial_tones(labels, 2048, RATE, seed=seed)
        return {
            "image": part["images"][:count],
            "sound": sound[:count],
            "word": [WORDS[label] for label in labels[:count]],
        }

    train, test = signals(digits["train"], 0, None), signals(digits["test"], 1, num_test)
    labels = digits["test"]["labels"][:num_test]
    generator = keras.models.load_model(args.generator) if args.generator else None
    if generator:
        tokenizers = {m.name: m.tokenizer for m in generator.modalities}
    else:
        tokenizers = trained_tokenizers(train, epochs)
    modalities = [
        Modality("image", PassThrough((28, 28, 1)) if args.pixels else tokenizers["image"], "latents"),
        Modality("sound", tokenizers["sound"], "latents"),
        Modality("word", CharacterTokenizer(5, "efghinorstuvwxz")),
    ]
    tokens = {m.name: m.encode(train[m.name]) for m in modalities}
    judges = {name: metrics.train_judge(train[name], digits["train"]["labels"], epochs) for name in ("image", "sound")}
    judges["word"] = lambda words: np.array([WORDS.index(word) if word in WORDS else -1 for word in words])
    judged = (test, labels, judges)
    report = {"image": "pixels" if args.pixels else "latents", "models": {}}

    def add(name, row, found):
        shares = [share for task in found["conditional"].values() for share in task.values()]
        row["mean conditional"] = float(np.mean(shares))
        report["models"][name] = {**row, **found}
        print(json.dumps({name: report["models"][name]}, indent=1), flush=True)

    for name in args.models:
        vae = JointVAE(name, modalities)
        row = vae.fit(tokens, args.seconds, args.epochs)
        row["parameters"] = sum(p.numel() for p in vae.model.parameters())
        found = metrics.coherence(vae, *judged, num_joint=num_test)
        row["Frechet distance"] = distances(vae, test, train, judges)
        vae.fit_mixture()
        joint = {task: want for task, want in vae.tasks.items() if not want[0]}
        of_mixture = distances(vae, test, train, judges)
        for key, row_of in row["Frechet distance"].items():
            row_of["joint of mixture"] = of_mixture[key]["joint"]
        found["joint of mixture"] = metrics.coherence(vae, *judged, joint, num_joint=num_test)["joint"]
        add(name, row, found)
    if generator:
        found = metrics.coherence(generator, *judged, num_joint=num_test)
        add("ours", {"Frechet distance": distances(generator, test, train, judges)}, found)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.json").write_text(json.dumps(report, indent=1))
    for name, row in report["models"].items():
        joints = {key: row[key]["image_sound_word"] for key in ("joint", "joint of mixture") if key in row}
        told = "   ".join(f"{key} {share:.3f}" for key, share in joints.items())
        print(f"{name:7} mean conditional {row['mean conditional']:.3f}   {told}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("speed", help="seconds of a training step against transfusion-pytorch")
    command.set_defaults(run=speed)
    command.add_argument("--backends", nargs="+", default=[os.environ.get("KERAS_BACKEND", "tensorflow")])
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--threads", type=int, help="of each contestant, on as many cores; without: all there are")
    command.add_argument("--width", type=int, default=128)
    command.add_argument("--layers", type=int, default=4)
    command.add_argument("--heads", type=int, default=4)
    command.add_argument("--side", type=int, default=7, help="the image has side x side tokens")
    command.add_argument("--text", type=int, default=16, help="text tokens")
    command.add_argument("--batch", type=int, default=32)
    command = commands.add_parser("vaes", help="coherence of MultiVae's joint VAEs")
    command.set_defaults(run=vaes)
    command.add_argument("--models", nargs="+", default=list(VAES), choices=list(VAES))
    command.add_argument("--seconds", type=float, default=300, help="of training each VAE")
    command.add_argument("--epochs", type=int, help="at most; without: as many as the seconds allow")
    command.add_argument("--pixels", action="store_true", help="the VAEs see the image's pixels, not its latents")
    command.add_argument("--generator", type=pathlib.Path, help="generator.keras of examples/any_to_any.py")
    command.add_argument("--smoke", action="store_true", help="an epoch of everything")
    command.add_argument("--output", type=pathlib.Path, default="joint_out")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
