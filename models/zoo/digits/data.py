"""The 1,797 handwritten digits that ship inside scikit-learn (UCI Optical Recognition of Handwritten Digits)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from models.zoo.dataset import Dataset, split


def load(seed: int) -> Dataset:
    """Images FP32 [n, 8, 8, 1] with values 0 to 16, labels INT64 [n]."""
    images, labels = load_digits(return_X_y=True)
    return split(images.reshape(-1, 8, 8, 1).astype(np.float32), labels.astype(np.int64), seed=seed, test_share=0.2)
