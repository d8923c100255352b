"""Samples in batches: the same whatever the workers and interruptions, mixed by shares, broken ones replaced."""

import cv2
import numpy as np
import pytest
from support.data_sets import Samples
from support.planes import CAMERA, NO_COLOUR, plane, planes, rgb

from spd_core.data.augment import Augmentation
from spd_core.data.loader import AugmentedSamples, read_all, training_batches
from spd_core.data.samples import DataError, InMemory, Sample


def test_target_is_the_depth_of_the_training_focal_length():
    samples = AugmentedSamples(
        [(planes(), 1.0)],
        Augmentation(rotate_deg=0, scale=(0.5, 0.5), crop=(100, 100), **NO_COLOUR),
        training_focal_px=450.0,
        seed=0,
    )
    item = samples[0]
    index = int(item["name"][-1])
    # half the size halves the focal length: for a camera of 450 px the same picture is three times as far
    low, high = 3 * (plane() + index).min(), 3 * (plane() + index).max()
    assert low <= item["depth_m"].min() <= item["depth_m"].max() <= high


def batches(first, last, batch_size, rank=0, world=1, workers=0, **augment):
    samples = AugmentedSamples([(planes(), 1.0)], Augmentation(crop=(96, 128), **augment), 300.0, seed=5)
    return list(training_batches(samples, first, last, batch_size, rank, world, workers))


def test_samples_do_not_depend_on_workers_processes_or_interruptions():
    whole = batches(0, 4, 4)
    for other in (batches(0, 4, 4, workers=2), batches(0, 2, 4) + batches(2, 4, 4)):
        assert [b["names"] for b in other] == [b["names"] for b in whole]
        assert all((a["rgb"] == b["rgb"]).all() and (a["depth_m"] == b["depth_m"]).all() for a, b in zip(whole, other))
    ranks = [batches(0, 4, 2, rank, world=2) for rank in range(2)]
    assert [a["names"] + b["names"] for a, b in zip(*ranks)] == [b["names"] for b in whole]


def test_the_crops_of_batches_vary_and_depend_on_nothing_but_the_seed():
    whole = batches(0, 12, 2, crop_variation=0.5)
    heights, widths = zip(*(batch["depth_m"].shape[2:] for batch in whole))
    assert min(heights) >= 48
    assert min(widths) >= 64
    assert max(heights) <= 96
    assert max(widths) <= 128
    assert len(set(heights)) > 3
    assert len(set(widths)) > 3
    other = batches(0, 5, 2, crop_variation=0.5, workers=2) + batches(5, 12, 2, crop_variation=0.5)
    assert all((a["rgb"].shape == b["rgb"].shape) and (a["rgb"] == b["rgb"]).all() for a, b in zip(whole, other))


def test_broken_samples_are_replaced_and_named():
    got = batches(0, 3, 4)  # 12 samples: each of the six twice
    assert [name for b in got for name in b["broken"]] == ["plane 2 is broken"] * 2
    names = [name for b in got for name in b["names"]]
    assert len(names) == 12
    assert "plane 2" not in names
    whole = AugmentedSamples([(planes(broken=()), 1.0)], Augmentation(crop=(96, 128)), 300.0, seed=5)
    shuffle = [whole[n]["name"] for n in range(6)]
    at = shuffle.index("plane 2")
    assert names[at] == shuffle[(at + 1) % 6]
    assert names[:at] + names[at + 1 : 6] == shuffle[:at] + shuffle[at + 1 :]


def test_a_damaged_part_of_a_data_set_costs_itself_alone():
    """As that of a shard or of a scene: more samples in a row than are tried at one position."""
    samples = AugmentedSamples([(planes(75, range(25)), 1.0)], Augmentation(crop=(64, 64)), 300.0, seed=0)
    got = [samples[n] for n in range(75)]
    assert {sample["name"] for sample in got} == {f"plane {i}" for i in range(25, 75)}
    assert {name for sample in got for name in sample["broken"]} == {f"plane {i} is broken" for i in range(25)}


@pytest.mark.parametrize("workers", [0, 1])
def test_where_nothing_can_be_read_the_error_is_in_plain_words(workers):
    samples = AugmentedSamples([(planes(broken=range(6)), 1.0)], Augmentation(crop=(64, 64)), 300.0, seed=0)
    with pytest.raises(DataError, match=r"^6 samples in a row are broken, the first: plane \d is broken$"):
        next(training_batches(samples, 0, 1, 4, workers=workers))


class Threads(Samples):
    def __getitem__(self, index):
        return cv2.getNumThreads()


def test_processes_that_read_leave_the_cores_to_the_others():
    assert list(read_all(Threads([None, None]), workers=1)) == [1, 1]


def constant(depth_m: float, count: int) -> Samples:
    """`count` samples of one depth."""
    depths_m = np.full((64, 64), depth_m, np.float32)
    return Samples([Sample(f"{depth_m} m, {i}", rgb(depths_m), depths_m, CAMERA) for i in range(count)])


def drawn(datasets, count) -> list[str]:
    """The names of the first samples."""
    samples = AugmentedSamples(datasets, Augmentation(rotate_deg=0), 300.0, 0)
    return [samples[n]["name"] for n in range(count)]


def test_a_mixture_draws_each_data_set_by_its_share_one_shuffle_after_the_other():
    names = drawn([(constant(1.0, 40), 3.0), (constant(2.0, 10), 1.0)], 2000)
    for depth_m, size, count in (("1.0", 40, 1500), ("2.0", 10, 500)):
        own = [name for name in names if name.startswith(depth_m)]
        assert len(own) == count
        rounds = [own[i : i + size] for i in range(0, count, size)]
        assert all(len(set(one)) == len(one) for one in rounds)
        assert rounds[0] != rounds[1]
    assert sum(name.startswith("1.0") for name in names[:200]) == pytest.approx(150, abs=30)  # mixed


def test_shares_of_any_size_are_kept_in_the_long_run():
    shares = np.array([1e-4, 0.4999, 1e-4, 0.4999])
    samples = AugmentedSamples([(constant(m, 5), share) for m, share in enumerate(shares)], Augmentation(), 300.0, 0)
    counts = np.array([samples._drawn(blocks) for blocks in range(1000)])
    assert (np.diff(counts, axis=0) >= 0).all()
    assert np.abs(counts - counts.sum(axis=1)[:, None] * shares).max() <= 2
    block = counts.sum(axis=1)[1]
    places = [samples._place(n) for n in range(20 * block, 21 * block)]
    for chosen in range(4):
        numbers = [number for of_set, number in places if of_set == chosen]
        assert numbers == list(range(counts[20, chosen], counts[21, chosen]))
    assert samples._place(20 * block + 7) == places[7]  # whatever was asked before


def test_samples_kept_in_memory_are_the_same_broken_ones_too():
    kept = InMemory(planes())
    assert [kept.name(i) for i in range(len(kept))] == [planes().name(i) for i in range(6)]
    assert (kept[3].depth_m == planes()[3].depth_m).all()
    for _ in range(2):
        with pytest.raises(DataError, match="plane 2 is broken"):
            kept[2]
