"""The Diabetes data that ships inside scikit-learn (Efron et al., Least Angle Regression, 2004), 442 patients."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes

from models.zoo.dataset import Dataset, split


def load(seed: int) -> Dataset:
    """Raw features FP32 [n, 10] and the progression score FP32 [n, 1]."""
    features, score = load_diabetes(return_X_y=True, scaled=False)
    return split(features.astype(np.float32), score.astype(np.float32)[:, None], seed=seed, test_share=0.2)
