"""Synthetic textures: ten patterns of a few pixels' size in two random colours, with noise.

A pattern has the same size in an image of any size, so that the network learns from small images and answers on large
ones: it averages over the whole image before its last layer.
"""

from __future__ import annotations

import numpy as np

from models.zoo.dataset import Array, Dataset
from models.zoo.resnet50.sizes import CLASSES, SIZE

TRAIN_SIZE = 32
TRAIN, TEST, CALIBRATION = 1280, 64, 32
NOISE = 0.05


def load(seed: int) -> Dataset:
    """Images FP32 [n, height, width, 3] with values 0 to 1, labels INT64 [n].

    Those to train with are 64x64 and those to test with 224x224, as the contract has them; so are those for whoever
    quantizes, which are drawn like the training's.
    """
    random = np.random.default_rng(seed)
    train, train_labels = images(random, TRAIN, TRAIN_SIZE)
    test, test_labels = images(random, TEST, SIZE)
    calibration, _ = images(random, CALIBRATION, SIZE)
    return Dataset(train, train_labels, test, test_labels, calibration)


def images(random: np.random.Generator, count: int, size: int) -> tuple[Array, Array]:
    """As many of each class as of the others, give or take one, in random order."""
    labels = random.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
    return np.stack([image(random, CLASSES[label], size) for label in labels]), labels


def image(random: np.random.Generator, kind: str, size: int) -> Array:
    """One image FP32 [size, size, 3]."""
    first, second = random.uniform(0, 1, (2, 3))
    # Two colours that can be told apart: the second moves away from the first where they are close.
    second = np.where(np.abs(first - second) < 0.3, (first + 0.5) % 1, second)
    share = pattern(random, kind, size)[:, :, None]
    drawn = first + (second - first) * share + random.normal(0, NOISE, (size, size, 3))
    return np.clip(drawn, 0, 1).astype(np.float32)


def pattern(random: np.random.Generator, kind: str, size: int) -> Array:
    """Where an image has its second colour: a share of 0 to 1 for each pixel, [size, size]."""
    period = random.uniform(4, 8)
    # Up to 5 degrees from the upright.
    turn = random.uniform(-0.09, 0.09)
    down, right = np.mgrid[:size, :size] + random.uniform(0, period, (2, 1, 1))
    y, x = (down * np.cos(turn) + right * np.sin(turn)) / period, (right * np.cos(turn) - down * np.sin(turn)) / period
    row, column = y % 1, x % 1
    match kind:
        case "horizontal":
            drawn = row < 0.5
        case "vertical":
            drawn = column < 0.5
        case "rising":
            drawn = (x + y) / np.sqrt(2) % 1 < 0.5
        case "falling":
            drawn = (x - y) / np.sqrt(2) % 1 < 0.5
        case "checks":
            drawn = (row < 0.5) ^ (column < 0.5)
        case "dots":
            drawn = (row - 0.5) ** 2 + (column - 0.5) ** 2 < 0.1
        case "grid":
            drawn = (row < 0.25) | (column < 0.25)
        case "bricks":
            drawn = (row < 0.2) | ((x / 2 + np.floor(y) % 2 / 2) % 1 < 0.1)
        case "waves":
            drawn = (y + 0.5 * np.sin(2 * np.pi * x / 1.5)) % 1 < 0.5
        case _:
            return _clouds(random, y, x)
    return drawn.astype(np.float64)


def _clouds(random: np.random.Generator, y: Array, x: Array) -> Array:
    """Six waves in random directions, added up."""
    angles, phases = random.uniform(0, np.pi, 6), random.uniform(0, 2 * np.pi, 6)
    waves = [np.sin(3 * (y * np.sin(a) + x * np.cos(a)) + p) for a, p in zip(angles, phases, strict=True)]
    return np.clip(0.5 + np.mean(waves, axis=0), 0, 1)
