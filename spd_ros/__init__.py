"""The ROS 2 node of SPD."""
