"""DiT-S/2: seconds of a training step and of sampling, ours on each backend against plain PyTorch.

    python benchmarks/dit.py --backends tensorflow jax torch --batch 4 --rounds 7

A round times each of them once, one after the other. Printed are medians, and the median over rounds of the peer's time
by ours: above 1 is faster than the peer. Training is AdamW with one moving average of the weights, flow matching
on random 32x32x4 latents; sampling is Euler with classifier-free guidance.
"""

import argparse

import contest

STEPS = 4  # of the sampler


def peer(batch):
    """The same network in plain PyTorch, trained in a hand-written loop."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, d, heads):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = (nn.LayerNorm(d, elementwise_affine=False, eps=1e-6) for _ in range(2))
            self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU("tanh"), nn.Linear(4 * d, d))
            self.ada = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

        def forward(self, x, c):
            b, n, d = x.shape
            shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c)[:, None].chunk(6, -1)
            h = self.norm1(x) * (1 + scale1) + shift1
            q, k, v = self.qkv(h).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
            x = x + gate1 * self.out(h)
            return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    class Network(nn.Module):
        def __init__(self, d=384, depth=12, heads=6):
            super().__init__()
            self.patch = nn.Conv2d(4, d, 2, 2)
            self.positions = nn.Parameter(torch.randn(1, 256, d) * 0.02, requires_grad=False)
            self.time = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
            self.label = nn.Embedding(1001, d)
            self.blocks = nn.ModuleList([Block(d, heads) for _ in range(depth)])
            self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
            self.ada = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))
            self.out = nn.Linear(d, 16)

        def forward(self, x, t, y):
            angles = 1000 * t[:, None] * torch.exp(-9.21034 * torch.arange(128) / 128)
            c = self.time(torch.cat([angles.cos(), angles.sin()], -1)) + self.label(y)
            x = self.patch(x).flatten(2).transpose(1, 2) + self.positions
            for block in self.blocks:
                x = block(x, c)
            shift, scale = self.ada(c)[:, None].chunk(2, -1)
            x = self.out(self.norm(x) * (1 + scale) + shift).reshape(-1, 16, 16, 2, 2, 4)
            return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 32, 32)

    network = Network()
    weights = [p for p in network.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
    x, y = torch.randn(batch, 4, 32, 32), torch.randint(0, 1000, (batch,))

    def train():
        t, noise = torch.sigmoid(torch.randn(batch)), torch.randn_like(x)
        labels = torch.where(torch.rand(batch) < 0.1, 1000, y)
        mix = t[:, None, None, None]
        loss = F.mse_loss(network((1 - mix) * x + mix * noise, t, labels), noise - x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1e-3)
        return loss.item()

    @torch.no_grad()
    def sample():
        z = torch.randn(batch, 4, 32, 32)
        labels = torch.cat([y, torch.full_like(y, 1000)])
        for i in range(STEPS):
            t = torch.full((2 * batch,), 1 - i / STEPS)
            cond, null = network(torch.cat([z, z]), t, labels).chunk(2)
            z = z - (null + 1.5 * (cond - null)) / STEPS
        return z.numpy()

    return {"train": train, "sample": sample}


def ours(batch):
    import keras
    import numpy as np

    import keras_mmai
    from keras_mmai.diffusion import ClassifierFreeGuidance, Euler

    network = keras_mmai.DiT.from_size("S/2", (32, 32, 4), num_classes=1000)
    model = keras_mmai.DiffusionTransformer(network)
    # for TensorFlow on CPUs Keras turns XLA on only if asked; the generator follows the model
    xla = keras.backend.backend() != "torch"
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.0), jit_compile=xla)
    random = np.random.RandomState(0)
    labels = random.randint(0, 1000, batch).astype("int32")
    data = {"x": random.randn(batch, 32, 32, 4).astype("float32"), "labels": labels}
    generator = model.generator(Euler(), num_steps=STEPS, guidance=ClassifierFreeGuidance(1.5))
    inputs = {"noise": data["x"], "labels": labels}
    return {
        "train": lambda: model.train_on_batch(data),
        "sample": lambda: generator.predict_on_batch(inputs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax", "torch"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        return contest.answer((peer if args.contestant == contest.PEER else ours)(args.batch))

    print(f"DiT-S/2, batch {args.batch}, {args.rounds} rounds; peer = plain PyTorch, eager")
    results = contest.run(__file__, args.backends, ("train", "sample"), args.rounds, ("--batch", args.batch))
    for job, contestants in results.items():
        for name, (seconds, ratio) in contestants.items():
            print(f"{job:7} {name:11} {seconds:7.3f} s   peer/ours {ratio:5.2f}")


if __name__ == "__main__":
    main()
