"""What is wrong, in words."""

from types import SimpleNamespace

from spd_ros import diagnostics
from spd_ros.diagnostics import Problems, Statistics, assess


def test_a_second_node_of_this_name_is_told_and_one_that_crashed_is_not(monkeypatch):
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(diagnostics, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    node = SimpleNamespace(resolve_topic_name=lambda topic: topic.replace("~", "/spd"))
    statistics = Statistics()
    problems = Problems(statistics, lambda text: None)
    for publishers, until_s, told in [
        (2, 120, False),
        (1, 125, False),
        (2, 140, False),
        (2, 160, True),
        (1, 161, False),
    ]:
        node.count_publishers = lambda topic, count=publishers: count
        while clock.now_s < until_s:
            clock.now_s += 1
            statistics.image_received()
            _, message = assess(node, statistics, problems, [], [])
        assert ("another node of this name" in message) == told
