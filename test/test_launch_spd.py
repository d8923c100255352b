"""spd.launch.py under launch_testing: two cameras, both answer, and both leave with 0."""

import unittest

import pytest

launch_testing = pytest.importorskip(
    "launch_testing", reason="the launch stack is not installed (it comes with a ROS installation)"
)

import launch_testing.actions
import launch_testing.asserts
import rclpy
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from spd_core.messages import cloud_to_array
from spd_core.status import Status
from spd_ros.conversions import query_cloud


@pytest.mark.launch_test
def generate_test_description():
    source = PythonLaunchDescriptionSource(f"{get_package_share_directory('spd_ros')}/launch/spd.launch.py")
    spd = IncludeLaunchDescription(source, launch_arguments={"cameras": "front,rear", "device": "cpu"}.items())
    return LaunchDescription([spd, launch_testing.actions.ReadyToTest()])


class TestTwoCameras(unittest.TestCase):
    def test_both_answer(self):
        rclpy.init()
        client = rclpy.create_node("spd_launch_test")
        try:
            for camera in ("front", "rear"):
                answers = []
                client.create_subscription(PointCloud2, f"/{camera}/spd/depths", answers.append, 10)
                queries = client.create_publisher(PointCloud2, f"/{camera}/spd/query_points", 10)
                for _ in range(600):
                    if not answers and queries.get_subscription_count():
                        queries.publish(query_cloud([[1.0, 2.0]], Header()))
                    rclpy.spin_once(client, timeout_sec=0.2)
                    if answers:
                        break
                assert cloud_to_array(answers[0])["status"].tolist() == [Status.NO_IMAGE]
                topics = dict(client.get_subscriber_names_and_types_by_node("spd", f"/{camera}"))
                assert f"/{camera}/image_raw" in topics
        finally:
            client.destroy_node()
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestExit(unittest.TestCase):
    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
