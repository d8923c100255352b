"""`spd view --node`: a real node, a camera and other clients over DDS, and the page in a browser without a screen."""

import asyncio
import time
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from nicegui import Client, ui
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from support.browser import at_pixel, browser, opened, served, waits_for  # noqa: F401
from support.robot import TOPICS, client, rgb  # noqa: F401

from spd_cli.node_page import MOST_POINTS, TAG_SIZE, TAG_SIZE_ON_A_PHONE, NodePage, NodeView, NodeViews, with_room
from spd_core.messages import cloud_to_array, query_points
from spd_core.names import IMAGE_TOPIC, INFO_TOPIC
from spd_core.predictor import Answer
from spd_ros.conversions import answer_cloud, query_cloud, rgb_to_image, stamp_ns
from spd_ros.observer import PAUSE_S, POINT, Observer, Seen, observing
from spd_ros.processes import running_node

SIZE = (480, 640)
SETTINGS = {"device": "cpu", "runtime": "torch", "diagnostics_period_s": 0.2, "query_timeout_s": 0.5}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def address(browser, client):  # the first says where there is none
    with served("--node") as address:
        yield address


@pytest.fixture(scope="module")
def running(client, address):
    """The client of a node that the page looks at. It collects the queries of all."""
    client.asked = []
    client.create_subscription(PointCloud2, "/spd/query_points", client.asked.append, 500)
    with running_node(TOPICS, SETTINGS) as process:
        client.connect(process)
        yield client
        assert process.poll() is None, "the node died"


@pytest.fixture
def page(browser, address):
    page = opened(browser, address, ".rates")
    yield page
    assert page.complaints == []
    page.close()


def shown(page, running, picture) -> Header:
    """The header of an image that was published, and that the page shows now."""
    size = f"{picture.shape[1]}x{picture.shape[0]} px"
    for _ in range(20):  # best effort
        header = running.show(picture)
        stamp = f"{size}, stamp {stamp_ns(header) / 1e9:.3f} s"
        try:
            waits(page, running, ".about", stamp, 3.0)
        except AssertionError:
            continue
        page.wait_for_function("document.querySelector('.photo > img')?.naturalWidth > 0")
        return header
    raise AssertionError(f"no image came to the page, which says {page.locator('.page').inner_text()!r}")


def waits(page, running, selector, text, timeout_s=60.0):
    """Until an element of the page has the text, while the client hears its topics."""
    running.spin(lambda: has(page, selector, text), timeout_s)


def has(page, selector, text):
    return any(text in found for found in page.locator(selector).all_inner_texts())


def said(point):
    u, v, x, y, z = (point[name] for name in "uvxyz")
    return f"{u:g}, {v:g}: {point['depth']:.2f} ± {point['sigma']:.2f} m (x {x:.2f} y {y:.2f} z {z:.2f})"


def answered(running, uv, header):
    """What the node answers this client; the page's answers come here too."""
    running.answers.clear()
    running.queries.publish(query_cloud(np.array(uv, float), header, np.arange(77, 77 + len(uv))))
    mine = []
    running.spin(lambda: mine.extend(p for p in map(cloud_to_array, running.answers) if p["id"][0] == 77) or mine)
    return mine[0]


def test_tags_have_room():
    places = np.random.default_rng(0).uniform(0, 1, (200, 2))
    for size in (TAG_SIZE, TAG_SIZE_ON_A_PHONE):
        boxes = []
        for x, y in places[with_room(places, size)]:
            left = x - size[0] if x > 0.6 else x
            boxes.append((left, y - size[1] / 2, left + size[0], y + size[1] / 2))
        assert len(boxes) > 3
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert min(a[2], b[2]) <= max(a[0], b[0]) + 1e-9 or min(a[3], b[3]) <= max(a[1], b[1]) + 1e-9
    assert with_room(np.zeros((0, 2)), TAG_SIZE) == []


def test_of_very_many_points_some_are_drawn(monkeypatch):
    drawn, circle = [], cv2.circle
    monkeypatch.setattr(cv2, "circle", lambda *what: drawn.append(what) or circle(*what))
    others = np.zeros(65_536, POINT)
    others["depth"] = 1.0
    assert NodeView(0, "", np.zeros((*SIZE, 3), np.uint8), "", False, None, Header(), others, {}).picture
    assert 5_000 < len(drawn) <= 2 * MOST_POINTS  # a point is two circles


def test_an_image_that_comes_after_its_answer_is_waited_for():
    image = Image(height=2, width=2, step=6, encoding="rgb8", data=bytes(12))
    newest, encoded = Seen(5, image), Seen(3, image)
    found = iter([None, None, encoded])
    point = np.zeros(1, POINT)
    observer = SimpleNamespace(
        image_topic="", ask=lambda header, uv: (7, point), image=lambda stamp: next(found) if stamp == 7 else None
    )
    view = NodeViews(observer).pointed_at(newest, [(1, 1)])
    assert view.number == 3
    assert view.known == {(1, 1): point[0]}


def test_an_error_that_no_callback_catches_is_told_and_does_not_end_the_observing():
    def fail():
        raise RuntimeError("a message that cannot be taken")

    with observing("nobody") as observer:
        observer.create_timer(0.1, fail)
        until_s = time.monotonic() + 20
        while not any("spinning failed: RuntimeError: a message" in trouble for trouble in observer.troubles):
            assert time.monotonic() < until_s, observer.troubles
            time.sleep(0.05)


@pytest.fixture
def observed(client):
    """An observer, a node that it takes for SPD, and what makes both hear until something is so."""
    node, observer, executor = Node("spd", namespace="/slow"), Observer("slow"), SingleThreadedExecutor()
    node.create_subscription(Image, "/slow/images", lambda message: None, qos_profile_sensor_data)
    node.images = node.create_publisher(Image, "/slow/images", qos_profile_sensor_data)
    node.says = {name: node.create_publisher(PointCloud2, f"/slow/spd/{name}", 50) for name in ANSWERS}
    executor.add_node(node)
    executor.add_node(observer)

    def spin(until, timeout_s=30):
        until_s = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < until_s, "nothing came in time"
            executor.spin_once(timeout_sec=0.01)

    spin(lambda: node.images.get_subscription_count() == 2 and observer.image_topic)
    spin(lambda: all(publisher.get_subscription_count() for publisher in node.says.values()))
    yield observer, node, spin
    executor.shutdown()
    observer.destroy_node()
    node.destroy_node()


ANSWERS = ("depths", "waypoint_depths")


def seen_by(observer, node, spin, header):
    node.images.publish(rgb_to_image(np.zeros((8, 8, 3), np.uint8), header))
    spin(lambda: observer.image(stamp_ns(header)))
    return header


def said_of(header, depth_m, scale):
    """An answer at two points."""
    answer = Answer(np.array(depth_m), np.ones(2), np.ones((2, 3)), np.zeros(2, np.uint8), scale)
    return answer_cloud(header, np.array([[1.0, 1.0], [6.0, 6.0]]), np.arange(2, dtype=np.uint32), answer)


def test_late_answers_of_every_kind_are_seen_and_stand_on_their_image(observed, client, monkeypatch):
    monkeypatch.setattr("spd_ros.observer.PATIENCE_S", 60)  # a machine that is busy with other things
    observer, node, spin = observed
    first, *_, last = (seen_by(*observed, client.header()) for _ in range(40))
    late_s = time.monotonic() + 1.2
    spin(lambda: time.monotonic() > late_s)
    assert observer.newest().message.header == last
    for count, name in enumerate(ANSWERS, 1):
        node.says[name].publish(said_of(first, [2.0, np.nan], np.array([1.3, np.nan])))
        spin(lambda count=count: len(observer.newest().answers) == count)
        last = seen_by(*observed, client.header())
        assert observer.newest().message.header == first
    assert observer.scale == pytest.approx(1.3)

    with Client(ui.page("/built"), request=None):
        page = NodePage(observer, NodeViews(observer))
    tags, show = [], page.photo.set_source

    def note(source):
        tags.append(len(list(page.tags)))
        show(source)

    page.photo.set_source = note
    asyncio.run(page._clear())  # Esc, before there is an image
    for seen in (observer.newest(), observer.image(stamp_ns(last))):
        asyncio.run(page.look(seen))
    assert tags == [2, 0]

    node.says["depths"].publish(said_of(last, [np.nan, np.nan], np.ones(2)))
    spin(lambda: observer.image(stamp_ns(last)).answers)
    assert observer.scale == pytest.approx(1.3), "of an answer that has depth"
    monkeypatch.setattr("spd_ros.observer.KEPT_BYTES", 10 * 8 * 8 * 3)
    newest = seen_by(*observed, client.header())
    assert observer.image(stamp_ns(first)) is None
    assert [observer.image(stamp_ns(header)) is not None for header in (last, newest)] == [True, True]


def test_without_a_node_the_page_says_so(page):
    waits_for(page, ".trouble", "there is no node /spd; ros2 launch spd_ros spd.launch.py starts one")
    assert not page.locator(".photo").is_visible()
    assert page.locator(".rates").inner_text() == "0.0 images/s, 0.0 answers/s"


def test_a_click_says_what_the_node_answers_about_the_image_that_is_shown(page, running, rgb):
    header, uv = shown(page, running, rgb), [(180, 300), (330, 200)]
    points = answered(running, uv, header)
    running.idle(0.5)
    running.asked.clear()
    page.mouse.move(*at_pixel(page, *uv[0], SIZE))
    waits(page, running, ".reading", said(points[0]))
    for u, v in uv:
        page.mouse.click(*at_pixel(page, u, v, SIZE))
    waits(page, running, ".pins", said(points[1]))
    waits(page, running, ".pins", said(points[0]))
    xyz_m = np.stack([points[axis] for axis in "xyz"], axis=1)
    waits(page, running, ".distance", f"{np.linalg.norm(xyz_m[1] - xyz_m[0]):.2f} m apart")
    # A second pin is asked about with the first or alone: whether the pointer was seen there before it was clicked. The
    # page may have had its answer before the query came here.
    running.spin(
        lambda: {tuple(pixel) for query in running.asked for pixel in query_points(query)[0].tolist()} == set(uv)
    )
    assert {stamp_ns(query.header) for query in running.asked} == {stamp_ns(header)}
    page.keyboard.press("Escape")
    page.wait_for_selector(".pin", state="detached")


def test_points_of_others_are_drawn_and_told(page, running, rgb):
    header, uv = shown(page, running, rgb), [(100, 100), (320, 240), (540, 400), (700, 2), (float("nan"), 0)]
    points = answered(running, uv, header)
    waits(page, running, ".asked", "others asked about this image: 3 OK, 1 OUTSIDE_IMAGE, 1 NOT_FINITE")
    tags = [f"{point['depth']:.2f} ± {point['sigma']:.2f} m" for point in points[:3]]
    assert page.locator(".others .tag").all_inner_texts() == tags
    page.wait_for_function("document.querySelector('.photo > img').complete")
    address = page.locator(".photo > img").first.evaluate("image => image.src")
    drawn = cv2.imdecode(np.frombuffer(page.request.get(address).body(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    for u, v in uv[:3]:
        assert np.abs(drawn[v, u].astype(int) - rgb[v, u]).max() > 50, "a point in the colour of its depth"
    waits(page, running, ".rates", ", scale 1.00")


def test_pins_are_asked_again_about_every_image_that_is_shown(page, running, rgb):
    shown(page, running, rgb)
    page.mouse.click(*at_pixel(page, 100, 150, SIZE))
    page.wait_for_selector(".pin")
    small = cv2.resize(rgb[:, ::-1], (320, 240))
    header = shown(page, running, small)
    [point] = answered(running, [(100, 150)], header)
    waits(page, running, ".pins", said(point))
    box = page.locator(".photo > img").first.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.01)
    header = shown(page, running, np.ascontiguousarray(rgb[:100]))
    waits(page, running, ".pins", "100, 150: none (OUTSIDE_IMAGE)")


def test_a_node_slower_than_its_camera_is_asked_about_images_that_it_has(page, running, rgb):
    shown(page, running, rgb)
    page.mouse.click(*at_pixel(page, 100, 150, SIZE))
    page.wait_for_selector(".pin")
    pins, stamps = [], set()
    for i in range(300):
        running.show(rgb, camera=None)
        running.idle(0.01)
        if i % 10 == 0:
            pins += page.locator(".pin").all_inner_texts()
            stamps |= set(page.locator(".about").all_inner_texts())
    assert len(pins) > 20
    assert not [text for text in pins if not (text.startswith("100, 150: ") and "±" in text)]
    assert len(stamps) > 3
    page.keyboard.press("Escape")


def test_a_hand_that_waves_does_not_keep_the_node_busy(page, running, rgb):
    shown(page, running, rgb)
    running.idle(0.5)
    running.asked.clear()
    started_s = time.monotonic()
    for i in range(150):
        page.mouse.move(*at_pixel(page, 100 + 2 * i, 240, SIZE))
    running.idle(1.0)
    assert 1 <= len(running.asked) <= (time.monotonic() - started_s) / PAUSE_S + 2
    assert query_points(running.asked[-1])[0].tolist() == [[398, 240]], "where it came to rest"
    waits(page, running, ".reading", "398, 240: ")


def test_an_image_that_cannot_be_read_is_told_and_the_next_one_shown(page, running, rgb):
    shown(page, running, rgb)
    bad = rgb_to_image(rgb, running.header())
    bad.encoding = "purple8"

    def is_told():
        running.images.publish(bad)
        return has(page, ".name.fault", "'purple8' is not supported")

    running.spin(is_told, 60)
    waits(page, running, ".trouble", "/spd says: image encoding 'purple8' is not supported")
    assert not page.locator(".photo").is_visible()
    shown(page, running, rgb)
    assert page.locator(".photo").is_visible()
    assert page.locator(".name").inner_text() == IMAGE_TOPIC


def test_silence_is_told_in_the_nodes_words(page, running, rgb):
    shown(page, running, rgb)
    waits(page, running, ".trouble", "/spd says: no image for ")
    waits(page, running, ".trouble", f" s on {IMAGE_TOPIC}; image topics with a publisher: {IMAGE_TOPIC}")
    shown(page, running, rgb)
    running.spin(lambda: running.show(rgb) and page.locator(".trouble").inner_text() == "")


def test_a_phones_width_holds_the_page_and_a_finger_pins(browser, address, running, rgb):
    page = opened(browser, address, ".rates", viewport={"width": 360, "height": 740}, has_touch=True)
    header = shown(page, running, rgb)
    answered(running, [(100, 100), (320, 240), (540, 400)], header)
    page.touchscreen.tap(*at_pixel(page, 200, 300, SIZE))
    page.wait_for_selector(".pin")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


def test_a_node_that_comes_back_with_another_camera_is_looked_at_again(browser, client, rgb):
    with served("--node", "--namespace", "front") as address:
        page = opened(browser, address, ".rates")
        for topic in ("/front/first", "/front/second"):
            waits(page, client, ".trouble", "there is no node /front/spd")
            camera = client.create_publisher(Image, topic, qos_profile_sensor_data)

            def is_said(selector, text, camera=camera):
                camera.publish(rgb_to_image(rgb, client.header()))
                client.idle(0.1)
                return has(page, selector, text)

            with running_node({"__ns": "/front", "image": topic, "camera_info": INFO_TOPIC}, SETTINGS):
                client.spin(partial(is_said, ".name", topic), 60)
                # A click on a picture that has not come to the browser yet is of no pixel.
                page.wait_for_function("document.querySelector('.photo > img')?.naturalWidth > 0")
                page.mouse.click(*at_pixel(page, 100, 100, SIZE))
                client.spin(partial(is_said, ".pins", "100, 100: "), 60)
                client.spin(partial(is_said, ".pins", "m (NO_CAMERA_INFO)"), 60)
                client.spin(partial(is_said, ".trouble", "/front/spd says: no camera_info"), 60)
            client.destroy_publisher(camera)
            waits(page, client, ".trouble", "there is no node /front/spd")
            page.mouse.click(*at_pixel(page, 200, 100, SIZE))
            waits(page, client, ".pins", "nothing listens to /front/spd/query_points")
            page.keyboard.press("Escape")
        assert page.complaints == []
        page.close()
