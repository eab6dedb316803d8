"""ResNet-50 in both frameworks, and the textures it is trained on."""

from __future__ import annotations

import numpy as np
import torch

from models.convert import copy_to_keras
from models.train import predict_keras, predict_torch
from models.zoo.dataset import Dataset
from models.zoo.resnet50 import data, keras_net, torch_net
from models.zoo.resnet50.sizes import CLASSES, SIZE


def small() -> Dataset:
    random = np.random.default_rng(3)
    images, labels = data.images(random, 6, 32)
    test, test_labels = data.images(random, 1, SIZE)
    return Dataset(images, labels, test, test_labels)


def test_keras_answers_the_same() -> None:
    """With the zeros that each pads around its images, and all that is added up in between."""
    rows = small()
    torch.manual_seed(3)
    net = torch_net.build(rows)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("norm3.weight"):  # they begin as zeros, which would hide all before them
                value.fill_(0.5)
    other = keras_net.build(rows)
    copy_to_keras(net, other)
    ours, theirs = predict_torch(net, rows.test_inputs), predict_keras(other, rows.test_inputs)
    assert ours.shape == (1, len(CLASSES))
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_seed_draws_the_same_textures_of_every_kind() -> None:
    """Values from 0 to 1, as many of each kind as of the others."""
    (images, labels), (again, _) = (data.images(np.random.default_rng(5), 12, 32) for _ in range(2))
    assert images.dtype == np.float32
    assert images.shape == (12, 32, 32, 3)
    assert np.array_equal(images, again)
    assert 0 <= images.min() < images.max() <= 1
    assert np.bincount(labels).tolist() == [2] * len(CLASSES)


def test_textures_have_the_same_grain_in_images_of_any_size() -> None:
    """What is learned on small images holds for large ones: both change as often from pixel to pixel."""
    for kind in CLASSES:
        small_one, large = (
            [data.pattern(np.random.default_rng(seed), kind, size) for seed in range(8)] for size in (64, 224)
        )
        changes = [np.mean([np.abs(np.diff(share, axis=1)).mean() for share in some]) for some in (small_one, large)]
        assert np.isclose(*changes, rtol=0.2), kind
