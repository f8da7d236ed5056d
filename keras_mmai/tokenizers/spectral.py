"""What two sounds differ by in their spectra."""

from keras import ops

from keras_mmai.layers.fourier import mel_triangles
from keras_mmai.serialization import Configurable, register

LOWEST = 20.0  # Hz, where the mel bands begin


def magnitudes(x, fft_length, floor):
    """Magnitudes of the short-time Fourier transform, Hann window, hop of a quarter: (n, samples) to (n, t, f).

    Over the sum of the window: a sine of amplitude 1 makes 1/2.
    """
    real, imaginary = ops.stft(x, fft_length, fft_length // 4, fft_length)
    power = (ops.square(real) + ops.square(imaginary)) / (fft_length / 2) ** 2
    return ops.sqrt(power + floor**2)  # its gradient is finite at silence


@register
class SpectralLoss(Configurable):
    """Distances of spectra at several resolutions, for the `perceptual_loss` of an audio tokenizer.

    Call: two signals (b, samples, c), longer than half of the longest resolution, to {"stft": (b,), "mel": (b,)},
    float32, means over the resolutions and channels.

        stft  ||X| - |Y|| / ||X|| + mean |log |X| - log |Y||       (Yamamoto, Song & Kim 2020, eq. 3 and 4)
        mel   mean |log10 mel |X| - log10 mel |Y||                 (as in Kumar et al. 2023, section 3.5)

    with |X| = sqrt(|STFT|^2 + floor^2).

    Args:
        sample_rate: int, Hz.
        fft_lengths: ints, the resolutions; the hop is a quarter of each.
        num_mels: int for each of them, mel bands.
        stft_weight, mel_weight: floats.
        floor: float > 0, the magnitude below which a sound is silence (a sine of amplitude 1 has 1/2). Logarithms tell
            of silence as much as of sound: a low floor spends the training on how silent it is.

    Raises:
        ValueError: on a number of mel bands for another number of resolutions, bands too narrow for their resolution,
            or a floor that is not positive; when called on what is no waveform, or a short one.
    """

    names = ("stft", "mel")

    def __init__(
        self,
        sample_rate,
        fft_lengths=(128, 512, 1024),
        num_mels=(16, 48, 80),
        stft_weight=1.0,
        mel_weight=1.0,
        floor=1e-3,
    ):
        if len(fft_lengths) != len(num_mels):
            raise ValueError(
                f"`num_mels` has an entry for each of `fft_lengths`. Received: fft_lengths={fft_lengths}, "
                f"num_mels={num_mels}"
            )
        if not floor > 0:
            raise ValueError(f"`floor` must be above 0. Received: floor={floor}")
        self.sample_rate = sample_rate
        self.fft_lengths = tuple(fft_lengths)
        self.num_mels = tuple(num_mels)
        self.stft_weight = stft_weight
        self.mel_weight = mel_weight
        self.floor = floor
        self.filters = [
            mel_triangles(sample_rate, fft_length, bands, LOWEST).astype("float32")
            for fft_length, bands in zip(self.fft_lengths, self.num_mels)
        ]

    def __call__(self, x, y):
        least = max(self.fft_lengths) // 2 + 1
        if len(x.shape) != 3 or x.shape[1] < least:
            raise ValueError(
                f"Spectra of fft_lengths={self.fft_lengths} are of signals (b, samples, c) with at least {least} "
                f"samples. Received: {tuple(x.shape)}"
            )
        _, samples, channels = x.shape
        stft = mel = 0.0
        signals = [ops.reshape(ops.transpose(s, (0, 2, 1)), (-1, samples)) for s in (x, y)]
        for fft_length, filters in zip(self.fft_lengths, self.filters):
            a, b = (magnitudes(s, fft_length, self.floor) for s in signals)
            stft += norm(a - b) / norm(a) + mean(ops.abs(ops.log(a) - ops.log(b)))  # norm(a) >= floor
            a, b = (ops.log10(ops.matmul(m, filters) + self.floor) for m in (a, b))
            mel += mean(ops.abs(a - b))
        weights = {"stft": self.stft_weight, "mel": self.mel_weight}
        return {
            name: weights[name] * ops.mean(ops.reshape(value, (-1, channels)), axis=-1) / len(self.fft_lengths)
            for name, value in (("stft", stft), ("mel", mel))
        }


def mean(x):
    return ops.mean(x, axis=(1, 2))


def norm(x):
    return ops.sqrt(ops.sum(ops.square(x), axis=(1, 2)) + 1e-12)
