"""Names of topics and frames: what the node is remapped to, what bags are written with, what a replay plays to."""

IMAGE_TOPIC, INFO_TOPIC, DEPTH_TOPIC = "/camera/image_raw", "/camera/camera_info", "/camera/depth"
QUERY_TOPIC, ANSWER_TOPIC, WAYPOINT_ANSWER_TOPIC = "/spd/query_points", "/spd/depths", "/spd/waypoint_depths"
FRAME_ID = "camera_optical_frame"
# The node's own names of its inputs, and the topics above.
REMAPPINGS = {"image": IMAGE_TOPIC, "image/compressed": f"{IMAGE_TOPIC}/compressed", "camera_info": INFO_TOPIC}
