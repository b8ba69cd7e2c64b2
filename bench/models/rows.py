"""Rows of each model's own kind: the machine's own files for one that tells file types, voices, photographs, drawn words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import lfilter
from sklearn.datasets import load_sample_image

Floats = npt.NDArray[np.float32]
Rows = dict[str, npt.NDArray[np.generic]]

ROWS = 12
VOICE_HZ = 16_000
# Formants of five vowels, in Hz.
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
WORDS = (
    "Headrace",
    "3419 kW",
    "Turbine No. 2",
    "open gates",
    "12:45",
    "Xk7Pq",
    "river level",
    "A-113",
    "42",
    "flow",
    "Weir",
    "OK",
)


def voice(samples: int, seed: int, rate_hz: int = VOICE_HZ) -> Floats:
    """Something like speech, in -1..1: vowels one after the other, by a pulsed source and formants, with pauses, over noise."""
    random = np.random.default_rng(seed)
    sound = random.normal(0, 0.003, samples)
    at = int(random.integers(0, rate_hz // 8))
    while at < samples:
        length = min(int(rate_hz * random.uniform(0.12, 0.35)), samples - at)
        pitch = random.uniform(90, 240) * (1 + 0.05 * np.sin(np.linspace(0, 9, length)))
        pulses = np.diff(np.floor(np.cumsum(pitch / rate_hz)), prepend=0.0)
        for formant in VOWELS[int(random.integers(len(VOWELS)))]:
            radius, angle = np.exp(-np.pi * 90 / rate_hz), 2 * np.pi * formant / rate_hz
            pulses = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], pulses)
        sound[at : at + length] += 0.5 * pulses / max(np.abs(pulses).max(), 1e-9) * np.hanning(length)
        at += length + int(rate_hz * random.uniform(0.02, 0.3))
    return np.clip(sound, -1, 1).astype(np.float32)


def voices(samples: int, count: int = ROWS, rate_hz: int = VOICE_HZ) -> Floats:
    """[count, samples]."""
    return np.stack([voice(samples, seed, rate_hz) for seed in range(count)])


def mel(sound: Floats, *, bands: int, window: int, hop: int, rate_hz: int = VOICE_HZ) -> Floats:
    """The power of each band of the mel scale, [frames, bands]."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, window // 2, mode="reflect"), window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate_hz / 2 / 700), bands + 2) / 2595) - 1)
    places = np.arange(power.shape[1]) * rate_hz / window
    rising = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    bank = np.clip(np.minimum(rising, falling), 0, None) * 2 / (edges[2:] - edges[:-2])
    return np.asarray(power @ bank, np.float32)


def photographs(size: int, count: int = ROWS) -> Floats:
    """Pieces of real photographs, [count, size, size, 3] in 0..255."""
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    found = []
    for place in range(count):
        picture = pictures[place % 2]
        side = int(random.integers(min(48, size), min(picture.size)))
        left, top = (int(random.integers(0, edge - side + 1)) for edge in picture.size)
        found.append(np.asarray(picture.crop((left, top, left + side, top + side)).resize((size, size))))
    return np.stack(found).astype(np.float32)


def drawn(width: int, height: int, count: int = ROWS) -> Floats:
    """Words in black on light grounds, [count, height, width, 3] in 0..255."""
    random = np.random.default_rng(1)
    found = []
    for place in range(count):
        picture = Image.new("RGB", (width, height), tuple(int(part) for part in random.integers(190, 256, 3)))
        draw, size = ImageDraw.Draw(picture), max(12, min(height, 160) // 2)
        for line in range(max(1, height // (3 * size))):
            text = WORDS[(place + line) % len(WORDS)]
            at = (int(random.integers(2, max(3, width // 4))), int(height * (line + 0.2) / max(1, height // (3 * size))))
            draw.text(at, text, fill=(0, 0, 0), font=ImageFont.load_default(size))
        found.append(np.asarray(picture))
    return np.stack(found).astype(np.float32)


def planes(pictures: Floats, mean: float = 127.5, spread: float = 127.5) -> Floats:
    """Colours first, and around 0."""
    return np.ascontiguousarray(((pictures - mean) / spread).transpose(0, 3, 1, 2), np.float32)


def beginnings_and_ends(files: list[Path]) -> npt.NDArray[np.int32]:
    """As magika reads files: the first and the last 1024 bytes without blanks around, 256 where there is none."""
    found = np.full((len(files), 2048), 256, np.int32)
    for row, file in zip(found, files, strict=True):
        content = file.read_bytes()
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row[: len(first)] = list(first)
        row[2048 - len(last) :] = list(last)
    return found


def _files() -> list[Path]:
    """Of many kinds, and on every machine that has this project."""
    home = Path(__file__).resolve().parents[2]
    return [home / name for name in ("README.md", "LICENSE", "Makefile", "pyproject.toml", "ray-cluster.yaml")] + sorted(
        Path(np.__file__).parent.glob("*.py")
    )


def _windows() -> Rows:
    """Silero's: 512 samples with the 64 before them, and states as they come in the midst of a sound."""
    sound = voice(16 * 512 + 64, 3)
    windows = np.stack([sound[at : at + 576] for at in range(0, 16 * 512, 512)])
    states = np.random.default_rng(0).normal(0, 0.3, (len(windows), 2, 128))
    return {"input": windows, "state": states.astype(np.float32)}


def _frames() -> Floats:
    """Crepe's: 1024 samples around 0, by their spread."""
    frames = voice(64 * 160 + 1024, 4)[np.arange(0, 64 * 160, 160)[:, None] + np.arange(1024)]
    frames = frames - frames.mean(axis=1, keepdims=True)
    return np.asarray(frames / np.maximum(1e-10, frames.std(axis=1, keepdims=True)), np.float32)


def _decibels(sound: Floats) -> Floats:
    """DNSMOS's mel spectrogram, 40 dB about the loudest as 1."""
    power = mel(sound[:-160], bands=120, window=321, hop=160)
    decibels = 10 * np.log10(np.maximum(power, 1e-10) / max(float(power.max()), 1e-10))
    return np.asarray((np.maximum(decibels, -80) + 40) / 40, np.float32)


# By the Model document's name; the keys are the model's own inputs.
MAKERS: Mapping[str, Callable[[], Rows]] = {
    "magika": lambda: {"bytes": beginnings_and_ends(_files())},
    "silero-vad": _windows,
    "rapidocr-det": lambda: {"x": planes(drawn(320, 320))},
    "rapidocr-rec": lambda: {"x": planes(drawn(320, 48))},
    "rapidocr-cls": lambda: {"x": planes(drawn(192, 48))},
    "mtcnn-pnet": lambda: {"input_1": (photographs(96) - 127.5) / 128},
    "mtcnn-rnet": lambda: {"input_2": (photographs(24) - 127.5) / 128},
    "mtcnn-onet": lambda: {"input_3": (photographs(48) - 127.5) / 128},
    "basic-pitch": lambda: {"serving_default_input_2:0": voices(43_844, rate_hz=22_050)[:, :, None]},
    "dnsmos-p808": lambda: {"input_1": np.stack([_decibels(one)[:900] for one in voices(144_160)])},
    "dnsmos": lambda: {"input_1": voices(144_160)},
    "ddddocr": lambda: {"input1": drawn(160, 64).mean(axis=3)[:, None] / 255},
    "ddddocr-det": lambda: {"images": np.ascontiguousarray(drawn(416, 416).transpose(0, 3, 1, 2))},
    "crepe-tiny": lambda: {"sound": _frames()},
    "resemblyzer": lambda: {"mels": np.stack([mel(one, bands=40, window=400, hop=160)[:160] for one in voices(25_760)])},
}
