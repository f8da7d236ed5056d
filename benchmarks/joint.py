"""Several modalities in one model: a training step beside transfusion-pytorch, coherence beside MultiVae's joint VAEs.

    pip install -c constraints.txt ".[test,torch]"
    python benchmarks/joint.py speed --backends tensorflow jax torch --rounds 5
    python benchmarks/joint.py vaes out/generator.keras --seconds 300 --output joint_out
    python benchmarks/joint.py vaes --full full_out/generator.keras --output joint_full

`speed`: a step forward, backward and of AdamW with one moving average of the weights, on text ids and image latents of
one batch, against transfusion-pytorch in eager PyTorch. Every contestant is a process on the same cores. Printed are
medians over rounds, and the median of the peer's time by ours: above 1 is faster than the peer. Width, layers, heads,
feed-forward width (gated, 8/3 of the width) and shared streams are the same. What differs: the peer's sequence also has
its own tokens for the beginning and end of the text and the image and for the image's shape, some ten; its text is
causal with the next token's loss, ours is masked; each of its image tokens is conditioned on its time by layers of its
own, from four times the width, where ours spends them once for each modality; it caps the logits of attention, mixes
the layers' outputs, and has skip connections, without which this version does not run. Its gated values are off.

`vaes`: MMVAE+, MVTCAE and MoPoE beside the generator that examples/any_to_any.py wrote, on its data, judged by the same
classifiers; with `--full` the larger size of both: 60,000 digits and their recordings. They see latents of image and
sound by the generator's tokenizers, which decode what the VAEs make (snapped to the nearest codes), and letters; the
transformer has the sound's codes. Hyper-parameters are those of MultiVae's own examples; each likelihood is rescaled to
that of one of their images, for which their weight of the divergence was chosen. A tenth of the training data is held
out, and the epoch with the least loss on it is kept. "joint" samples the prior; "joint of mixture" MultiVae's mixture
of ten Gaussians, fitted to the posteriors of the training data, of the larger size to 10,000 of them. A VAE gives the
mean of what could be, which a judge names readily: the Frechet distances in the judges' features tell how far from real
signals it is. Writes report.json.
"""

import argparse
import json
import os
import pathlib
import sys

import contest
import numpy as np
from multivae_peers import VAES, JointVAE

TEXT_VOCABULARY, CHANNELS = 27, 4


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
    sizes = dict(hidden_dim=args.width, num_layers=args.layers, num_heads=args.heads)
    network = MultimodalDiT(modalities, **sizes, feed_forward="swiglu", streams="shared")  # as the peer's are
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


def vaes(args):
    import keras

    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
    from recipe import digit_judges, digit_signals, spoken_digit_signals

    from keras_mmai import Modality, memory, metrics
    from keras_mmai.tokenizers import CharacterTokenizer, PassThrough

    keras.utils.set_random_seed(0)
    memory.keep_freed_memory()
    num_test, epochs = (20, 1) if args.smoke else (300, 2) if args.full else (500, 8)
    args.epochs = 1 if args.smoke else args.epochs
    generator = keras.models.load_model(args.generator)
    tokenizers = {m.name: m.tokenizer for m in generator.modalities}
    if args.full:
        parts = spoken_digit_signals(tokenizers["sound"].input_shape[0], 1500 if args.smoke else None)
    else:
        parts = digit_signals()
    (train, train_labels), (test, labels) = parts
    test, labels = {name: x[:num_test] for name, x in test.items()}, labels[:num_test]
    modalities = [
        Modality("image", PassThrough((28, 28, 1)) if args.pixels else tokenizers["image"], "latents"),
        Modality("sound", tokenizers["sound"], "latents"),
        Modality("word", CharacterTokenizer(5, "efghinorstuvwxz")),
    ]
    tokens = {m.name: m.encode(train[m.name]) for m in modalities}
    judges = digit_judges(train, train_labels, epochs)
    judged = (test, labels, judges)
    reference = {name: train[name][: 2 * num_test].copy() for name in ("image", "sound")}
    del parts, train  # 1.4 GB of the larger size
    report = {"image": "pixels" if args.pixels else "latents", "full": args.full, "models": {}}

    def add(name, row, found):
        shares = [share for task in found["conditional"].values() for share in task.values()]
        row["mean conditional"] = float(np.mean(shares))
        report["models"][name] = {**row, **found}
        print(json.dumps({name: report["models"][name]}, indent=1), flush=True)

    for name in args.models:
        vae = JointVAE(name, modalities)
        row = vae.fit(tokens, args.seconds, args.epochs)
        row["parameters"] = sum(p.numel() for p in vae.model.parameters())
        found = metrics.coherence(vae, *judged, reference=reference)
        vae.fit_mixture()
        joint = {task: want for task, want in vae.tasks.items() if not want[0]}
        of_mixture = metrics.coherence(vae, *judged, joint, reference=reference)
        found |= {f"{key} of mixture": of_mixture[key] for key in ("joint", "frechet_distance")}
        add(name, row, found)
    add("ours", {}, metrics.coherence(generator, *judged, reference=reference))
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
    command.add_argument("generator", type=pathlib.Path, help="generator.keras of examples/any_to_any.py")
    command.add_argument("--full", action="store_true", help="the larger size; a generator of any_to_any.py --full")
    command.add_argument("--smoke", action="store_true", help="an epoch of everything")
    command.add_argument("--output", type=pathlib.Path, default="joint_out")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
