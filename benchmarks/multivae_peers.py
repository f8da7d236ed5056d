"""The joint VAEs of MultiVae on tokens of ours, with what `metrics.coherence` asks of a generator.

MultiVae imports torchvision for its own data sets and pictures. A torchvision that was built for another PyTorch, as
that of PyPI beside the CPU wheel, fails; then stand-ins take its place, since nothing of it is used here.
"""

import importlib
import itertools
import sys
import time
from unittest import mock

import numpy as np

POLYMNIST = 3 * 28 * 28  # numbers in an image of the peer's examples


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
        """Trains until the time or the epochs are over, and keeps the best epoch: {"epochs", "best", "seconds"}.

        The time is that of the thread that computes: what else the machine does takes none of it."""
        import torch
        from multivae.data.datasets import MultimodalBaseDataset

        data = self.dataset(tokens).data
        order = np.random.RandomState(0).permutation(len(next(iter(data.values()))))
        train, held_out = np.split(order, [len(order) * 9 // 10])
        optimizer = torch.optim.Adam(self.model.parameters(), **self.adam)
        start, epoch, best = time.thread_time(), 0, (np.inf, 0, None)

        def losses(rows, training):
            self.model.train(training)
            for i in range(0, len(rows), self.batch):
                part = rows[i : i + self.batch]
                yield self.model(MultimodalBaseDataset({name: x[part] for name, x in data.items()}))

        while time.thread_time() - start < seconds and (epochs is None or epoch < epochs):
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
        return {"epochs": epoch, "best": best[1], "held-out loss": best[0], "seconds": time.thread_time() - start}

    def fit_mixture(self, most=10000):
        """Fits MultiVae's mixture to the posteriors of the training data, or of as many examples of it."""
        from multivae.data.datasets import MultimodalBaseDataset

        self.mixture = self.samplers.GaussianMixtureSampler(self.model)
        self.mixture.fit(MultimodalBaseDataset({name: x[:most] for name, x in self.train.items()}))

    def decode(self, tokens, batch_size=100):
        import keras

        signals = {}
        for m in self.modalities:
            if m.vocabulary and m.name in tokens:
                signals[m.name] = m.tokenizer.decode(np.asarray(tokens[m.name]))
            elif m.name in tokens:
                x = tokens[m.name]
                parts = [m.tokenizer.decode(np.asarray(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
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
