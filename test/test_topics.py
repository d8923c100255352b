"""Which topics are taken of the sets that camera drivers publish, and what is never taken for metres."""

import sqlite3
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support import recorded
from support.recorded import SIZE, compressed, depth_mm, image, info, picture, png, stamp

from spd_core.data import topics
from spd_core.data.bag import Bag, find_topics
from spd_core.data.samples import DataError

SMALL, WIDE = (36, 64), (48, 128)


def colour(topic, encoding="rgb8", frame_id="", size=SIZE, by_info=True):
    """A colour image with a camera_info beside it."""
    channels = {"mono8": 1, "bgra8": 4, "mono16": 1}.get(encoding, 3)
    pixels = np.dstack([picture(0, size)] * 2)[..., :channels]
    pixels = (pixels[..., 0] * np.uint16(100)) if encoding == "mono16" else pixels
    yield topic, stamp(0), image(stamp(0), pixels, encoding, frame_id)
    if by_info:
        yield topic.rsplit("/", 1)[0] + "/camera_info", stamp(0), info(stamp(0), size, frame_id)


def depth(topic, encoding="16UC1", frame_id="", size=SIZE, late_ns=0):
    pixels = depth_mm(0, size) if encoding != "32FC1" else (depth_mm(0, size) / 1000).astype(np.float32)
    yield topic, stamp(0), image(stamp(0) + late_ns, pixels, encoding, frame_id)


def confidence(topic, frame_id="", size=SIZE):
    yield topic, stamp(0), image(stamp(0), np.full(size, 37.5, np.float32), "32FC1", frame_id)


def jpeg(topic, pixels, form="rgb8; jpeg compressed bgr8", frame_id=""):
    yield topic, stamp(0), compressed(stamp(0), form, cv2.imencode(".jpg", pixels)[1].tobytes(), frame_id)


def png_depth(topic, form="16UC1; compressedDepth png", frame_id=""):
    header = bytes(12) if "compressedDepth" in form else b""
    yield topic, stamp(0), compressed(stamp(0), form, header + png(depth_mm()), frame_id)


def realsense(root="/camera", aligned=True):
    yield from colour(f"{root}/color/image_raw", frame_id="color_optical")
    yield from jpeg(f"{root}/color/image_raw/compressed", picture(), frame_id="color_optical")
    yield from colour(f"{root}/infra1/image_rect_raw", "mono8", "infra1_optical")
    yield from depth(f"{root}/depth/image_rect_raw", frame_id="depth_optical")
    yield f"{root}/depth/camera_info", stamp(0), info(stamp(0), SIZE, "depth_optical")
    if aligned:
        yield from depth(f"{root}/aligned_depth_to_color/image_raw", frame_id="color_optical")
        yield from png_depth(f"{root}/aligned_depth_to_color/image_raw/compressedDepth", frame_id="color_optical")
        yield f"{root}/aligned_depth_to_color/camera_info", stamp(0), info(stamp(0), SIZE, "color_optical")


def realsense_compressed():
    yield from jpeg("/camera/color/image_raw/compressed", picture())
    yield "/camera/color/camera_info", stamp(0), info(stamp(0))
    yield from jpeg("/camera/aligned_depth_to_color/image_raw/compressed", depth_mm().astype(np.uint8), "16UC1; jpeg")
    yield from png_depth("/camera/aligned_depth_to_color/image_raw/compressedDepth")


def zed(rect="image_rect_color", raw="image_raw_color", left="left", frame_id="zed_left"):
    base = "/zed/zed_node"
    for side, frame in (("right", "zed_right"), (left, frame_id)):
        yield from colour(f"{base}/{side}_raw/{raw}", "bgra8", frame)
        yield from colour(f"{base}/{side}/{rect}", "bgra8", frame)
    yield from colour(f"{base}/left/image_rect_gray", "mono8", "zed_left", by_info=False)
    yield from colour(f"{base}/stereo/{rect}", "bgra8", frame_id, WIDE)
    yield from confidence(f"{base}/confidence/confidence_map", frame_id)
    yield from depth(f"{base}/depth/depth_registered", "32FC1", frame_id)
    yield f"{base}/depth/camera_info", stamp(0), info(stamp(0), SIZE, frame_id)


def zed_new():
    for camera, frame in (("left", "zed_left"), ("right", "zed_right")):
        for kind in ("raw", "rect"):
            yield from colour(f"/zed/zed_node/{camera}/color/{kind}/image", "bgra8", frame)
    yield from depth("/zed/zed_node/depth/depth_registered", "32FC1", "zed_left")
    yield from confidence("/zed/zed_node/confidence/confidence_map", "zed_left")


def azure(registered=True):
    yield from colour("/ir/image_raw", "mono16", "depth_camera_link", SMALL)
    yield from depth("/depth/image_raw", "16UC1", "depth_camera_link", SMALL)
    yield "/depth/camera_info", stamp(0), info(stamp(0), SMALL, "depth_camera_link")
    yield from colour("/rgb/image_raw", "bgra8", "rgb_camera_link")
    yield from colour("/rgb_to_depth/image_raw", "bgra8", "depth_camera_link", SMALL)
    if registered:
        yield from depth("/depth_to_rgb/image_raw", "16UC1", "rgb_camera_link")
        yield "/depth_to_rgb/camera_info", stamp(0), info(stamp(0), SIZE, "rgb_camera_link")


def oak():
    yield from colour("/oak/left/image_raw", "mono8", "left")
    yield from colour("/oak/right/image_raw", "mono8", "right")
    yield from colour("/oak/rgb/preview/image_raw", "bgr8", "rgb", SMALL)
    yield from colour("/oak/rgb/image_raw", "bgr8", "rgb")
    yield from depth("/oak/stereo/image_raw", "16UC1", "rgb")


def orbbec():
    yield from colour("/camera/color/image_raw", "rgb8", "camera_color_optical_frame")
    yield from colour("/camera/left_ir/image_raw", "mono8", "camera_left_ir_optical_frame")
    yield from colour("/camera/ir/image_raw", "mono16", "camera_ir_optical_frame")
    yield from depth("/camera/depth/image_raw", "16UC1", "camera_color_optical_frame")


def openni():
    yield from colour("/camera/rgb/image_raw", "rgb8", "rgb_optical")
    yield from colour("/camera/rgb/image_rect_color", "rgb8", "rgb_optical", by_info=False)
    yield from colour("/camera/ir/image", "mono16", "depth_optical")
    yield from depth("/camera/depth/image_raw", "16UC1", "depth_optical")
    yield from depth("/camera/depth/image", "32FC1", "depth_optical")
    yield from depth("/camera/depth_registered/image_raw", "16UC1", "rgb_optical")


def tum():
    yield from colour("/camera/rgb/image_mono", "mono8", "/openni_rgb_optical_frame", by_info=False)
    yield from colour("/camera/rgb/image_color", "bgr8", "/openni_rgb_optical_frame")
    yield from depth("/camera/depth/image", "32FC1", "/openni_rgb_optical_frame")
    yield "/camera/depth/camera_info", stamp(0), info(stamp(0), SIZE, "/openni_rgb_optical_frame")


def kinect2():
    yield from colour("/kinect2/sd/image_color_rect", "bgr8", "kinect2_ir_optical_frame", SMALL)
    yield from depth("/kinect2/sd/image_ir", "16UC1", "kinect2_ir_optical_frame", SMALL)
    yield from colour("/kinect2/qhd/image_color_rect", "bgr8", "kinect2_rgb_optical_frame")
    yield from depth("/kinect2/qhd/image_depth_rect", "16UC1", "kinect2_rgb_optical_frame")


def isaac_sim():
    yield from colour("/rgb", frame_id="sim_camera", by_info=False)
    yield "/camera_info", stamp(0), info(stamp(0), SIZE, "sim_camera")
    yield from confidence("/semantic_segmentation", "sim_camera")
    yield from depth("/depth", "32FC1", "sim_camera")


def hawk():
    for side in ("left", "right"):
        yield from colour(f"/hawk_0_{side}_rgb_image", frame_id=f"hawk_{side}", by_info=False)
        yield f"/hawk_0_{side}_rgb_camera_info", stamp(0), info(stamp(0), SIZE, f"hawk_{side}")
    yield from depth("/depth", "32FC1", "hawk_left")
    yield from depth("/disparity", "32FC1", "hawk_left")


def gazebo():
    yield from colour("/depth_camera/image_raw", "rgb8", "camera_link_optical")
    yield from depth("/depth_camera/depth/image_raw", "32FC1", "camera_link_optical")


def carla():
    root = "/carla/ego_vehicle"
    yield from colour(f"{root}/semantic_segmentation_front/image", "bgra8", "semantic_segmentation_front")
    yield from colour(f"{root}/rgb_front/image", "bgra8", "rgb_front")
    yield from depth(f"{root}/depth_front/image", "32FC1", "depth_front")


def two_cameras():
    yield from colour("/front/color/image_raw", frame_id="front_color")
    yield from depth("/front/aligned_depth_to_color/image_raw", frame_id="front_color")
    yield from colour("/back/color/image_raw", "mono8", frame_id="back_color")
    yield from depth("/back/aligned_depth_to_color/image_raw", frame_id="back_color")


def with_our_answers():
    yield from colour("/camera/image_raw", frame_id="cam")
    yield from depth("/camera/depth", frame_id="cam")
    yield from depth("/spd/dense", "32FC1", "cam")
    yield from colour("/spd/overlay", frame_id="cam", by_info=False)


def two_depths_of_which_one_is_late():
    yield from colour("/camera/image_raw")
    yield from depth("/camera/depth_a", late_ns=50_000_000)
    yield from depth("/camera/depth_b")


SETS = {
    "RealSense": (realsense, "/camera/color", "image_raw", "/camera/aligned_depth_to_color/image_raw"),
    "RealSense, in its newer namespace": (
        lambda: realsense("/camera/camera"),
        "/camera/camera/color",
        "image_raw",
        "/camera/camera/aligned_depth_to_color/image_raw",
    ),
    "RealSense, compressed": (
        realsense_compressed,
        "/camera/color",
        "image_raw/compressed",
        "/camera/aligned_depth_to_color/image_raw/compressedDepth",
    ),
    "ZED": (zed, "/zed/zed_node/left", "image_rect_color", "/zed/zed_node/depth/depth_registered"),
    "ZED, new": (zed_new, "/zed/zed_node/left/color/rect", "image", "/zed/zed_node/depth/depth_registered"),
    "Azure Kinect": (azure, "/rgb", "image_raw", "/depth_to_rgb/image_raw"),
    "Azure Kinect, colour registered": (
        lambda: azure(registered=False),
        "/rgb_to_depth",
        "image_raw",
        "/depth/image_raw",
    ),
    "OAK": (oak, "/oak/rgb", "image_raw", "/oak/stereo/image_raw"),
    "Orbbec": (orbbec, "/camera/color", "image_raw", "/camera/depth/image_raw"),
    "Astra, Xtion": (openni, "/camera/rgb", "image_raw", "/camera/depth_registered/image_raw"),
    "TUM": (tum, "/camera/rgb", "image_color", "/camera/depth/image"),
    "Kinect 2": (kinect2, "/kinect2/qhd", "image_color_rect", "/kinect2/qhd/image_depth_rect"),
    "Isaac Sim": (isaac_sim, "", "rgb", "/depth"),
    "Gazebo": (gazebo, "/depth_camera", "image_raw", "/depth_camera/depth/image_raw"),
    "CARLA": (carla, "/carla/ego_vehicle/rgb_front", "image", "/carla/ego_vehicle/depth_front/image"),
    "two RealSense": (two_cameras, "/front/color", "image_raw", "/front/aligned_depth_to_color/image_raw"),
    "recorded with our own answers": (with_our_answers, "/camera", "image_raw", "/camera/depth"),
    "depths of different times": (two_depths_of_which_one_is_late, "/camera", "image_raw", "/camera/depth_b"),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("reverse", [False, True])
def test_drivers(tmp_path, name, reverse):
    messages, folder, image_name, depth_topic = SETS[name]
    written = list(messages())
    path = recorded.write(tmp_path / "bag", written[::-1] if reverse else written)
    topics = find_topics(path)
    assert (topics.image, topics.depth) == (f"{folder}/{image_name}", depth_topic)
    assert topics.camera_info == f"{folder}/camera_info"


def test_a_calibration_beside_it_in_name_only(tmp_path):
    topics = find_topics(recorded.write(tmp_path / "bag", hawk()))
    assert topics.depth == "/depth"
    assert topics.image == "/hawk_0_left_rgb_image"
    assert topics.camera_info == "/hawk_0_left_rgb_camera_info"


@pytest.mark.parametrize(("other", "size"), [("/other/ir", SMALL), ("/other/color", SIZE), ("/cam/ir", SIZE)])
def test_the_calibration_of_another_camera_is_not_taken(tmp_path, other, size):
    messages = [*colour("/cam/color/image_raw", frame_id="color", by_info=False)]
    messages.append((f"{other}/camera_info", stamp(0), info(stamp(0), size, "other")))
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        choice = bag.choose()
        assert choice.topics.camera_info is None
        assert any(f"{other}/camera_info" in line and "--camera_info takes one" in line for line in choice.lines)
        assert bag.choose(camera_info=f"{other}/camera_info").topics.camera_info == f"{other}/camera_info"


@pytest.mark.parametrize(("folder", "frame_id"), [("/cam/color", "other"), ("/calibration", "/color")])
def test_a_calibration_beside_the_image_or_of_its_frame_is_taken(tmp_path, folder, frame_id):
    messages = [*colour("/cam/color/image_raw", frame_id="color", by_info=False)]
    messages.append((f"{folder}/camera_info", stamp(0), info(stamp(0), SIZE, frame_id)))
    assert find_topics(recorded.write(tmp_path / "bag", messages)).camera_info == f"{folder}/camera_info"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (confidence("/zed/confidence/confidence_map"), "not depth by its name"),
        (confidence("/stereo/disparity"), "not depth by its name"),
        (depth("/kinect2/image_ir"), "not depth by its name"),
        (depth("/thermal_camera/image_raw"), "not depth by its name"),
        (depth("/spd/dense", "32FC1"), "an answer of SPD"),
        (colour("/camera/depth/image_raw", "mono8"), "mono8 holds no metres"),
        *(
            (depth("/camera/depth/image_raw", encoding), f"{encoding} is not read as depth; expected one of 16UC1")
            for encoding in ("64FC1", "16SC1", "TYPE_16UC1", "rgb16")
        ),
        *(
            (depth("/camera/depth/image_raw", encoding), f"{encoding} holds no metres (8 bits: JPEG, or depth")
            for encoding in ("8UC4", "bgr8", "nv12")
        ),
        (colour("/camera/depth/image_colored", "rgb8"), None),
        (colour("/camera/ir/image_raw", "mono16"), None),
        (colour("/camera/image_raw16", "mono16"), None),
        (jpeg("/camera/depth/image_raw/compressed", depth_mm().astype(np.uint8), "16UC1; jpeg"), "mono8 holds no"),
        (depth("/camera/depth/image_rect_raw", size=SMALL), "not registered to /camera/color/image_raw of 64x48 px"),
    ],
)
def test_what_is_not_metres_is_never_depth(tmp_path, messages, why):
    path = recorded.write(tmp_path / "bag", [*colour("/camera/color/image_raw"), *messages])
    with Bag(path) as bag:
        choice = bag.choose()
    assert choice.topics.image == "/camera/color/image_raw"
    assert choice.topics.depth is None
    refused = [line for line in choice.lines if line.startswith("not depth ")]
    assert (why in refused[0]) if why else not refused


@pytest.mark.parametrize(("form", "channels"), [("32FC3; tiff", 3), ("bayer_rggb8; tiff", 1)])
def test_a_coded_topic_of_floats_costs_itself(tmp_path, form, channels):
    normals = cv2.imencode(".tiff", picture()[..., :channels].astype(np.float32) / 255)[1].tobytes()
    topic = "/camera/surface/compressed"
    messages = [*colour("/camera/color/image_raw"), (topic, stamp(0), compressed(stamp(0), form, normals))]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        choice = bag.choose()
    assert choice.topics.image == "/camera/color/image_raw"


def test_a_depth_topic_that_stayed_empty_was_expected(tmp_path):
    path = recorded.write(tmp_path / "bag", [*colour("/cam/image_raw"), *depth("/cam/depth/image_raw")], "sqlite3")
    with sqlite3.connect(path / "bag.db3") as file:
        file.execute("DELETE FROM messages WHERE topic_id = (SELECT id FROM topics WHERE name LIKE '%depth%')")
    with Bag(path) as bag:
        choice = bag.choose()
    assert choice.topics.depth is None
    assert choice.expects_depth
    assert choice.lines[-1] == "not depth   /cam/depth/image_raw (sensor_msgs/msg/Image, 0): it has no message"


def test_depth_in_16_bit_grey_is_known_by_its_name(tmp_path):
    for number, (topic, expected) in enumerate([("/camera/depth/image_raw", True), ("/camera/gray/image_raw", False)]):
        path = recorded.write(tmp_path / str(number), [*colour("/camera/rgb/image_raw"), *depth(topic, "mono16")])
        assert (find_topics(path).depth == topic) is expected


def test_only_infrared_is_better_than_nothing(tmp_path):
    messages = [*colour("/camera/infra1/image_rect_raw", "mono8"), *depth("/camera/depth/image_rect_raw")]
    topics = find_topics(recorded.write(tmp_path / "bag", messages))
    assert (topics.image, topics.depth) == ("/camera/infra1/image_rect_raw", "/camera/depth/image_rect_raw")


def test_another_frame_id_is_remarked(tmp_path):
    with Bag(recorded.write(tmp_path / "bag", realsense(aligned=False))) as bag:
        choice = bag.choose()
    assert choice.topics.depth == "/camera/depth/image_rect_raw"
    assert "depth has the frame_id 'depth_optical' and the image 'color_optical'" in choice.lines[-1]


@pytest.mark.parametrize(("focal_px", "is_remarked"), [(45.0, True), (60.0, False), (0.0, False)])
def test_a_calibration_of_its_own_is_remarked(tmp_path, focal_px, is_remarked):
    """As RealSense's viewer records: depth as it was taken, one frame_id for all."""
    device = "/device_0/sensor_{}/{}_0"
    messages = list(colour(f"{device.format(1, 'Color')}/image/data", frame_id="color", by_info=False))
    messages += depth(f"{device.format(0, 'Depth')}/image/data", "mono16", "color")
    for name, focal in (("0/Depth", focal_px), ("1/Color", 60.0)):
        message = info(stamp(0), SIZE, "color", k=[focal, 0, 31.5, 0, focal, 23.5, 0, 0, 1.0])
        messages.append((f"{device.format(*name.split('/'))}/info/camera_info", stamp(0), message))
    with Bag(recorded.write_ros1(tmp_path / "rs.bag", messages)) as bag:
        choice = bag.choose()
    assert choice.topics.depth == "/device_0/sensor_0/Depth_0/image/data"
    assert choice.topics.camera_info == "/device_0/sensor_1/Color_0/info/camera_info"
    remark = "depth has a focal length of 45 px (/device_0/sensor_0/Depth_0/info/camera_info) and the image 60 px"
    assert any(remark in line for line in choice.lines) == is_remarked


def test_the_slash_that_names_of_frames_began_with_makes_no_other_frame(tmp_path):
    messages = [*colour("/cam/rgb/image", frame_id="/optical"), *depth("/cam/depth/image", frame_id="optical")]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        choice = bag.choose()
    assert choice.topics.depth == "/cam/depth/image"
    assert not any("frame_id" in line for line in choice.lines)


def test_what_was_chosen_and_what_else_there_was_is_said(tmp_path):
    with Bag(recorded.write(tmp_path / "bag", zed())) as bag:
        lines = bag.choose().lines
    assert lines[0] == "image       /zed/zed_node/left/image_rect_color (bgra8 64x48, 1)"
    assert lines[1] == "depth       /zed/zed_node/depth/depth_registered (32FC1 64x48, 1)"
    assert lines[3] == "query       none"
    assert "/zed/zed_node/right/image_rect_color (bgra8 64x48, 1)" in lines[4]
    assert lines[5] == ("not depth   /zed/zed_node/confidence/confidence_map (32FC1 64x48, 1): not depth by its name")


def test_a_topic_that_is_named_must_be_what_it_is_named_for(tmp_path):
    with Bag(recorded.write(tmp_path / "bag", [*realsense(), *zed()])) as bag:
        assert bag.choose(depth="/zed/zed_node/confidence/confidence_map").topics.depth.endswith("confidence_map")
        assert bag.choose(image="/camera/infra1/image_rect_raw").topics.image == "/camera/infra1/image_rect_raw"
        for given, word in (
            ({"depth": "/camera/infra1/image_rect_raw"}, "cannot be depth; expected an image of encoding 16UC1"),
            ({"depth": "/camera/color/camera_info"}, "cannot be depth"),
            ({"image": "/camera/depth/image_rect_raw"}, "cannot be the colour image"),
            ({"image": "/camera/color/camera_info"}, "cannot be the colour image"),
            ({"camera_info": "/camera/color/image_raw"}, "cannot be camera_info; expected sensor_msgs/msg/CameraInfo"),
            ({"query": "/camera/color/image_raw"}, "cannot be query; expected sensor_msgs/msg/PointCloud2"),
            ({"image": "/nothing"}, "has no topic /nothing for image; it has /camera/color/image_raw"),
        ):
            with pytest.raises(DataError) as error:
                bag.choose(**given)
            assert word in str(error.value)


@pytest.mark.parametrize(
    ("image", "own", "others"),
    [
        ("/cam_0_rgb", ("/cam_0_depth", "/cam_0_camera_info"), ("/cam_1_depth", "/cam_1_camera_info")),
        ("/cam_0/rgb/image", ("/cam_0/depth/image", "/calib/cam_0"), ("/cam_1/depth/image", "/calib/cam_1")),
        ("/left/image_raw", ("/left/depth", "/left/camera_info"), ("/right/depth", "/right/camera_info")),
        ("/right/image_raw", ("/right/depth", "/right/camera_info"), ("/left/depth", "/left/camera_info")),
        ("/cam_01/rgb", ("/cam1/depth", "/cam1/camera_info"), ("/cam2/depth", "/cam2/camera_info")),
        ("/front/rgb", ("/front/depth", "/front/camera_info"), ("/rear/depth", "/rear/camera_info")),
    ],
)
def test_cameras_are_told_apart_by_numbers_and_sides(image, own, others):
    """Where nothing else does: no frame_id, one size, one clock."""

    def content(topic):
        is_depth = "depth" in topic
        what = (topics.IMAGE, 9, "16UC1") if is_depth else (topics.INFO, 9, "")
        return topics.Content(topic, *what, SIZE, "", not is_depth)

    colour = topics.Content(image, topics.IMAGE, 9, "rgb8", SIZE)
    for order in ([*others, *own], [*own, *others]):
        chosen = topics.choose("bag", [*map(content, order), colour], {}, lambda image, depth: 1.0).topics
        assert (chosen.image, chosen.depth, chosen.camera_info) == (image, *own)
    for usual in ("/camera_info", "/calib/camera_info"):  # of no side and no number: it may be this one's
        chosen = topics.choose("bag", [content(usual), colour], {}, lambda image, depth: 1.0)
        assert chosen.topics.camera_info == usual
    chosen = topics.choose("bag", [content(others[1]), colour], {}, lambda image, depth: 1.0)
    assert chosen.topics.camera_info is None
    assert any(f"calibration of other cameras: {others[1]}" in line for line in chosen.lines)


@pytest.mark.parametrize("form", ["/{}/wrist/image_raw", "/robot/upper/arm/wrist/{}/image_raw", "/{}_wrist"])
def test_depth_has_the_words_of_its_image(form):
    """Where nothing else tells cameras apart: no frame_id, one size, one clock, neither numbers nor sides."""
    colour = topics.Content(form.format("rgb"), topics.IMAGE, 9, "rgb8", SIZE)
    depth = topics.Content(form.format("depth"), topics.IMAGE, 9, "16UC1", SIZE)
    other = replace(depth, topic=depth.topic.replace("wrist", "head"))
    for order in ([depth, other], [other, depth]):
        assert topics.choose("bag", [*order, colour], {}, lambda image, depth: 1.0).topics.depth == depth.topic


@pytest.mark.parametrize(
    ("image", "own", "others"),
    [
        ("/d435_1/color/image_raw", "/d435_1/depth/image_raw", "/d435_2/depth/image_raw"),
        ("/camera/color/image_raw", "/camera/depth/image_raw", "/camera_rear/depth/image_raw"),
        ("/arm/rgb", "/arm/depth", "/arm_wrist/depth"),
        ("/cam/0/rgb", "/cam/0/depth", "/cam/1/depth"),
        ("/kinect/rgb1", "/kinect/depth1", "/kinect/depth2"),
        ("/rgb_0/image_raw", "/depth_0/image_raw", "/depth_1/image_raw"),
        (
            "/device_0/sensor_1/Color_0/image/data",
            "/device_0/sensor_0/Depth_0/image/data",
            "/device_1/sensor_0/Depth_0/image/data",
        ),
        ("/cam1/stream2/rgb", "/cam1/stream1/depth", "/cam2/stream1/depth"),
        ("/robot1/cam2/rgb", "/robot1/cam2/depth", "/robot2/cam1/depth"),
    ],
)
def test_depth_has_no_more_words_and_numbers_than_its_image(image, own, others):
    colour = topics.Content(image, topics.IMAGE, 9, "rgb8", SIZE)
    depths = [replace(colour, topic=name, encoding="16UC1") for name in (own, others)]
    infos = [
        topics.Content(name.replace("depth/image_raw", "camera_info").replace("depth", "camera_info"), topics.INFO, 9)
        for name in (own, others)
    ]
    more = [replace(content, count=99) for content in (depths[1], infos[1])]
    chosen = topics.choose("bag", [*more, depths[0], infos[0], colour], {}, lambda image, depth: 1.0).topics
    assert chosen.depth == own
    # A calibration of another sensor is not taken, also where it is of the same device.
    assert chosen.camera_info == (None if "sensor" in image or "stream" in image else infos[0].topic)
