"""Comparing data sets."""

import numpy as np

from spd_core.data.samples import Dataset


def same_samples(dataset: Dataset, other: Dataset) -> None:
    assert [dataset.name(i) for i in range(len(dataset))] == [other.name(i) for i in range(len(other))]
    for i in range(len(dataset)):
        np.testing.assert_array_equal(dataset[i].rgb, other[i].rgb)
        np.testing.assert_array_equal(dataset[i].depth_m, other[i].depth_m)
        assert dataset[i].camera == other[i].camera
