"""A node of your own that asks SPD about each image and reads the answers.

    ros2 launch spd_ros spd.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
    python examples/ask_node.py 320,240 100,50 --ros-args -r image:=/camera/image_raw

It asks about the images that it sees itself, by their stamp, as something that finds pixels in an image would. A query
with stamp 0 would be about the newest image, whichever that is.
"""

import sys
from collections import deque

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image, PointCloud2

from spd_core.messages import cloud_to_array
from spd_core.status import Status
from spd_ros.conversions import own_id, query_cloud


class AskingNode(Node):
    """Asks for the depth at fixed pixels of every image."""

    def __init__(self, uv: np.ndarray):
        super().__init__("asking")
        self.uv = uv
        # Numbers that nobody else uses: everyone hears all answers, those to others about the same image too.
        self.ids = own_id() + np.arange(len(uv), dtype=np.uint32)
        self.asked: deque[tuple[int, int]] = deque(maxlen=100)  # stamps of the images in question
        self.queries = self.create_publisher(PointCloud2, "/spd/query_points", 5)
        self.create_subscription(PointCloud2, "/spd/depths", self.on_answer, 50)  # those to others come here too
        self.create_subscription(Image, "image", self.on_image, qos_profile_sensor_data)

    def on_image(self, image: Image) -> None:
        self.asked.append((image.header.stamp.sec, image.header.stamp.nanosec))
        self.queries.publish(query_cloud(self.uv, image.header, self.ids))

    def on_answer(self, cloud: PointCloud2) -> None:
        stamp, points = cloud.header.stamp, cloud_to_array(cloud)
        if (stamp.sec, stamp.nanosec) not in self.asked or not np.array_equal(points["id"], self.ids):
            return  # an answer to somebody else
        self.asked.remove((stamp.sec, stamp.nanosec))  # every query has exactly one answer
        for point in points:  # in the order of the query; x y z depth sigma scale u v id status
            where = f"{stamp.sec}.{stamp.nanosec:09d} ({point['u']:g}, {point['v']:g}) px"
            if point["status"] == Status.OK:
                print(f"{where}: ({point['x']:.2f}, {point['y']:.2f}, {point['z']:.2f}) m", flush=True)
            else:  # the depth may still be there, as without a camera_info; if not it is NaN
                print(f"{where}: {Status(point['status']).name}, depth {point['depth']:.2f} m", flush=True)


def main() -> None:
    pixels = remove_ros_args(sys.argv)[1:] or ["320,240"]
    rclpy.init()
    node = AskingNode(np.array([[float(number) for number in pixel.split(",")] for pixel in pixels]))
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
