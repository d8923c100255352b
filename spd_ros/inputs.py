"""What an active node listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from .diagnostics import Problems

# For a message that was published once, before this node was there. Subscribed to beside the usual one, which does not
# get it, and only where there is such a publisher: all others would warn that they cannot serve it.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MOST_UNREAD = 10_000  # messages that are read at the end: who goes on sending is not waited for


class Inputs:
    """Subscriptions whose callbacks may raise: that is a problem to report, and no end of the node.

    Attributes:
        usual: all but that to what is latched.
    """

    def __init__(self, node: Node, problems: Problems):
        self.usual: list[Subscription] = []
        self._answered: list[Subscription] = []  # of `usual`, those whose every message gets an answer
        self._latched: Subscription | None = None
        self._node = node
        self._problems = problems

    def add(
        self, type_: type, topic: str, callback: Callable[[Any], Any], qos: QoSProfile, is_answered: bool = False
    ) -> None:
        self.usual.append(self._subscribe(type_, topic, callback, qos))
        if is_answered:
            self._answered.append(self.usual[-1])

    def add_latched(self, type_: type, topic: str, callback: Callable[[Any], Any]) -> None:
        """Listen to what is latched on a topic, if something is and that is not done yet."""
        publishers = self._node.get_publishers_info_by_topic(topic)
        is_latched = any(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        if is_latched and self._latched is None:
            self._latched = self._subscribe(type_, topic, callback, LATCHED)

    def close(self) -> None:
        for reader in self._answered:  # what has come and was not read yet would be gone with it
            read: Any = reader.callback
            for _ in range(MOST_UNREAD):
                if (taken := reader.handle.take_message(reader.msg_type, reader.raw)) is None:
                    break
                read(taken[0])
        for subscription in (*self.usual, self._latched):
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def _subscribe(self, type_: type, topic: str, callback: Callable[[Any], Any], qos: QoSProfile) -> Subscription:
        guarded = self._problems.guarded(f"reading {topic}", callback)
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)  # `diagnostics.assess` says it
        return self._node.create_subscription(type_, topic, guarded, qos, event_callbacks=quiet)
