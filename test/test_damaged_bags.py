"""Some of what `support/damaged_bags.py` does by the thousand."""

import numpy as np
from support.damaged_bags import KINDS, damage, make, many, run_spd


def test_damaged_bags_are_read_as_far_as_they_go_or_refused_in_a_word(tmp_path):
    outcomes = many(70, tmp_path)
    assert sum(outcomes.values()) == 70
    assert {kind for kind, _ in outcomes} == set(KINDS)
    results = {result for _, result in outcomes}
    assert "6 frames" in results
    assert all(result == "refused" or result.endswith(" frames") for result in results), results


def test_a_damaged_bag_through_the_command_line(tmp_path):
    bags = make(tmp_path)
    path = damage(bags["mcap"], tmp_path / "damaged", np.random.default_rng(1))
    assert run_spd(path) == "exit code 0"  # one that is read as far as it goes
