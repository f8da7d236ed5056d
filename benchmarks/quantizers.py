"""Quantizers: seconds and extra memory, ours on each backend against vector-quantize-pytorch.

    pip install vector-quantize-pytorch==1.32.0
    python benchmarks/quantizers.py --backends tensorflow jax torch --rounds 5

Jobs: "encode" is a call at inference; "train" a training call with the statistics of the moving averages; "entropy" the
loss of lookup-free quantization with its gradient. Printed are medians over rounds, the peer's time by ours (above 1 is
faster than the peer), and the extra memory: the largest resident memory in the first call of that size in a fresh
process, less what was resident before, the quantizer and its input included there. Ours are compiled except on PyTorch;
the memory of TensorFlow is that of the call before it is compiled. "train" is a call forward, without a gradient.
"""

import argparse
import os
import subprocess
import sys

import contest

# name -> (job, tokens, codes, width)
JOBS = {
    **{
        f"{job} {k}": (job, n, k, d)
        for n, k, d in ((4096, 1024, 64), (4096, 4096, 32), (16384, 16384, 32))
        for job in ("encode", "train")
    },
    "entropy 16 bits": ("entropy", 1024, 2**16, 16),
    "entropy 18 bits": ("entropy", 1024, 2**18, 18),
}


def peer(job, n, codes, width):
    import torch
    from vector_quantize_pytorch import LFQ, VectorQuantize

    torch.manual_seed(0)
    z = torch.randn(1, n, width)
    if job == "entropy":
        layer = LFQ(codebook_size=codes, dim=width, entropy_loss_weight=0.1).train()

        def call(z):
            z = z.clone().requires_grad_()
            layer(z)[2].backward()
            return z.grad

        return lambda rows=n: call(z[:, :rows]).sum().item()
    # as ours: without the rotation trick, which is its default
    layer = VectorQuantize(dim=width, codebook_size=codes, decay=0.99, rotation_trick=False).train(job == "train")

    @torch.no_grad()
    def call(rows=n):
        return layer(z[:, :rows])[1].sum().item()

    return call


def ours(job, n, codes, width, compiled):
    import keras
    import numpy as np
    from keras import ops

    from keras_mmai import layers

    backend = keras.backend.backend()
    z = np.random.RandomState(0).randn(1, n, width).astype("float32")
    if job == "entropy":
        layer = layers.LookupFreeQuantizer(width)
    else:
        layer = layers.VectorQuantizer(codes, width)
    layer.build((None, None, width))
    layer(z[:, :1], training=True)  # the codebook starts, or the first batch would be another job
    variables = layer.non_trainable_variables

    def loss(z):
        return sum(layer(z, training=True)["losses"].values())

    if backend == "tensorflow":
        import tensorflow as tf

        def work(z):
            if job != "entropy":
                return layer(z, training=job == "train")["codes"]
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = loss(z)
            return tape.gradient(value, z)

        function = tf.function(work) if compiled else work
        return lambda rows=n: float(np.sum(function(tf.constant(z[:, :rows]))))
    if backend == "torch":
        import torch

        def work(rows=n):
            given = torch.tensor(z[:, :rows])
            if job != "entropy":
                with torch.no_grad():
                    return float(layer(given, training=job == "train")["codes"].sum())
            given.requires_grad_()
            loss(given).backward()
            return float(given.grad.sum())

        return work

    import jax

    def stateless(state, z):
        with keras.StatelessScope(state_mapping=list(zip(variables, state)), collect_losses=True) as scope:
            result = loss(z) if job == "entropy" else layer(z, training=job == "train")["codes"]
        return result, [scope.get_current_value(v) for v in variables]

    if job == "entropy":
        stateless = jax.grad(stateless, argnums=1, has_aux=True)
    step = jax.jit(stateless)
    whole = step.lower([v.value for v in variables], ops.convert_to_tensor(z)).compile()

    def work(rows=n):
        run = whole if rows == n else step
        result, state = run([v.value for v in variables], ops.convert_to_tensor(z[:, :rows]))
        for variable, value in zip(variables, state):
            variable.assign(value)
        return float(np.sum(np.asarray(result)))

    return work


def status(key):
    """MiB of `key` in /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024


def print_memory(name, job):
    """Prints the extra MiB of the first call of that size."""
    work = peer(*JOBS[job]) if name == contest.PEER else ours(*JOBS[job], compiled=False)
    work(16)  # libraries are loaded
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = status("VmRSS")
    work()
    print(status("VmHWM") - before)


def memory_of(name, job):
    environment = {**os.environ, "KERAS_BACKEND": "torch" if name == contest.PEER else name}
    command = [sys.executable, __file__, "--contestant", name, "--memory", job]
    out = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout
    return float(out.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax", "torch"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return print_memory(args.contestant, args.memory)
    if args.contestant:
        make = peer if args.contestant == contest.PEER else lambda *job: ours(*job, compiled=True)
        return contest.answer({job: make(*JOBS[job]) for job in args.jobs})

    results = contest.run(__file__, args.backends, args.jobs, args.rounds, ("--jobs", *args.jobs))
    print(f"{args.rounds} rounds; peer = vector-quantize-pytorch, eager")
    for job, contestants in results.items():
        used = {name: memory_of(name, job) for name in contestants}
        for name, (seconds, ratio) in contestants.items():
            print(
                f"{job:16} {name:11} {seconds * 1000:8.1f} ms   peer/ours {ratio:6.2f}   {used[name]:7.1f} MiB   "
                f"ours/peer {used[name] / used[contest.PEER]:6.3f}"
            )


if __name__ == "__main__":
    main()
