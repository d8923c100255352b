"""`spd view`: what is shown, and the page itself in a browser without a screen."""

import asyncio
import re
import socket
import sys
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest
from nicegui import Client, app, ui
from starlette.testclient import TestClient
from support.browser import at_pixel, browser, opened, served, waits_for  # noqa: F401

from spd_cli import viewing
from spd_cli.page import Newest, offer
from spd_cli.picture_page import PicturePage
from spd_cli.sources import Picture, pictures
from spd_cli.viewing import Gallery, _collected, _say_what_is_wrong
from spd_cli.views import SHOWN_PX
from spd_core import Camera
from spd_core.data.bag import BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.data.images import read_colour
from spd_core.errors import SPDError
from spd_core.status import Status
from spd_rooms.synthetic import random_frame

SIZE = (96, 128)
CAMERA = Camera(104.0, 104.0, 63.5, 47.5)


@pytest.fixture(scope="module")
def rooms():
    return [random_frame(7_000_000 + i, SIZE).rgb for i in range(3)]


def picture_of(rgb, camera=CAMERA):
    return Picture("a picture", lambda: rgb, is_moving=True, camera=camera)


# --- what is shown


def test_answers_are_the_frames_and_distances_those_of_their_points(rooms, embedded):
    gallery = Gallery([picture_of(rgb) for rgb in rooms], embedded)
    uv = [(20, 30), (100, 60), (-9, 0), (20, 30)]
    pins = gallery[1].pins(uv)
    expected = embedded.encode(rooms[1], CAMERA).answer(np.array(uv, float))
    for i, pin in enumerate(pins):
        np.testing.assert_allclose(
            [pin.depth_m, pin.sigma_m, *pin.xyz_m], [expected.depth_m[i], expected.sigma_m[i], *expected.xyz_m[i]]
        )
    assert pins[1].step_m == pytest.approx(np.sqrt(((expected.xyz_m[1] - expected.xyz_m[0]) ** 2).sum()), rel=1e-6)
    assert np.isnan([pins[0].step_m, pins[2].step_m, pins[3].step_m]).all()
    assert (pins[2].metres, pins[2].place, pins[2].status) == ("none", "OUTSIDE_IMAGE", Status.OUTSIDE_IMAGE)
    assert pins[0].metres == f"{expected.depth_m[0]:.2f} ± {expected.sigma_m[0]:.2f} m"
    assert gallery[1].pins([]) == []


def test_without_a_camera_metres_stay_and_points_are_of_the_assumed_one(rooms, embedded, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), rooms[0][..., ::-1])
    view = Gallery(list(pictures([str(tmp_path / "p.png")])), embedded)[0]
    with pytest.warns(UserWarning, match="no camera intrinsics"):
        frame = embedded.encode(rooms[0])
    [pin] = view.pins([(20, 30)])
    assert pin.depth_m == frame.depth_at(np.array([[20, 30]]))[0]
    focal_px = frame.transform.expected_focal_px
    np.testing.assert_allclose(pin.xyz_m[:2], pin.depth_m / focal_px * (np.array([20, 30]) - [63.5, 47.5]), rtol=1e-5)
    assert view.is_assumed
    assert f"nothing says the focal length: {focal_px:.0f} px" in view.note
    told = Gallery(list(pictures([str(tmp_path / "p.png")])), embedded, fov_deg=60)[0]
    assert not told.is_assumed
    assert "from an angle of view of 60 degrees" in told.note


@pytest.mark.parametrize("size", [SIZE, (3000, 4000), (2000, 130)])
def test_points_of_what_is_shown_are_pixels_of_the_picture(size, embedded):
    view = Gallery([picture_of(np.zeros((*size, 3), np.uint8), None)], embedded)[0]
    height, width = size
    shown = cv2.imdecode(np.frombuffer(view.picture, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert shown == view.shown_size
    assert max(shown) == min(max(size), SHOWN_PX)
    for u, v in ((0, 0), (width - 1, height - 1), (width // 2, height // 3)):
        assert view.pixel((u + 0.5) * shown[1] / width, (v + 0.5) * shown[0] / height) == (u, v)
    assert view.pixel(shown[1], shown[0]) == (width - 1, height - 1)  # the border itself
    assert view.pixel(0, 0) == (0, 0)


def test_the_cloud_is_where_the_answers_are_in_the_colours_of_the_picture(rooms, embedded):
    view = Gallery([picture_of(rooms[0])], embedded)[0]
    xyz_m, colours, spacing_m = view.cloud
    assert xyz_m.shape == colours.shape == (96 * 128, 3)
    uv = CAMERA.project(xyz_m).round().astype(int)
    np.testing.assert_allclose(colours, rooms[0][uv[:, 1], uv[:, 0]] / 255, atol=1e-6)
    np.testing.assert_allclose(xyz_m[:, 2], view.frame.depth_at(uv))
    assert spacing_m == pytest.approx(np.median(xyz_m[:, 2]) / CAMERA.fx)


def test_depth_in_colours_is_dense_depth(rooms, embedded):
    view = Gallery([picture_of(rooms[0])], embedded)[0]
    png, near_m, far_m = view.dense
    depth_m = view.frame.dense_depth()
    np.testing.assert_allclose([near_m, far_m], np.percentile(depth_m, [1, 99]), rtol=1e-6)
    blue, _, red = cv2.split(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(int))
    assert blue.shape == SIZE
    assert (red > blue)[depth_m < near_m + 0.2 * (far_m - near_m)].all()
    assert (blue > red)[depth_m > near_m + 0.8 * (far_m - near_m)].mean() > 0.9  # the last of the scale is dark violet


def test_streams_are_kept_as_they_were_read(rooms, tmp_path, capsys):
    frames = [BagFrame((1 + i) * 10**9, rgb, None, CAMERA, []) for i, rgb in enumerate(rooms)]
    write_bag(tmp_path / "bag", frames)
    for found, count in ((_collected([str(tmp_path / "bag")], 3), 3), (_collected([str(tmp_path / "bag")], 2), 2)):
        assert [picture.camera for picture in found] == [CAMERA] * count
        for picture, rgb in zip(found, rooms):
            np.testing.assert_array_equal(picture.read(), rgb)
    assert "only the first 2 frames" in capsys.readouterr().out
    write_bag(tmp_path / "bad", [BagFrame(10**9 + i, rooms[0], None, Camera(0.5, 0.5, 0, 0), []) for i in range(3)])
    _collected([str(tmp_path / "bad")], 1)
    assert "left out: " in capsys.readouterr().err, "of what came before the cut"
    [bag_file] = (tmp_path / "bag").glob("*.mcap")
    assert len(_collected([str(bag_file)], 9)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], r"none\.jpg does not exist"),
        (["notes.txt"], "notes.txt is text that begins with 'hello'"),
        (["empty folder"], "empty folder has no pictures .*, and is no bag"),
        (["broken.mcap"], r"broken\.mcap is not a readable ROS 2 bag"),
        (["p.png", "--port", "TAKEN"], r"port \d+ of 127\.0\.0\.1 cannot be had \(Address already in use\)"),
        (["p.png", "--port", "70000"], "a port is 1 to 65535, got 70000"),
        (["p.png", "--frames", "0"], "frames must be positive, got 0"),
        (["p.png", "http://a.org/p.png"], "http://a.org/p.png is an address; expected a file"),
        (["p.png", "--fov", "0"], "1 to 170 degrees, got 0"),
        ([], "nothing to look at was named"),
        (["p.png", "--node"], r"--node shows what a running node sees, and no files besides; got p\.png"),
        (
            ["--node", "--weights", "w", "--frames", "2"],
            "--weights w and --frames 2: only for files; a node has its own",
        ),
        (["--node", "p.png"], r"--node shows what a running node sees, and no files besides; got p\.png"),
        (["--node", "--fov", "60"], "the node takes its camera from camera_info"),
        (["p.png", "--namespace", "front"], "--namespace is that of the node to look at, with --node; got front"),
        (["--node", "--namespace", "a b"], "cannot join ROS 2: Invalid namespace"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, monkeypatch, failing, arguments, message):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((*SIZE, 3), np.uint8))
    for name in ("notes.txt", "broken.mcap"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        arguments = [str(other.getsockname()[1]) if word == "TAKEN" else word for word in arguments]
        assert re.search(message, failing("view", *arguments))


def test_a_port_that_was_taken_while_the_pictures_were_read_is_one_line(tmp_path, monkeypatch, failing):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((*SIZE, 3), np.uint8))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.close()
        with socket.socket() as late:

            def read(*what):
                late.bind(("127.0.0.1", port))
                late.listen()
                return _collected(*what)

            monkeypatch.setattr(viewing, "_collected", read)
            said = failing("view", str(tmp_path / "p.png"), "--device", "cpu", "--port", str(port))
    assert f"port {port} of 127.0.0.1 cannot be had" in said


def test_a_missing_extra_is_one_line(monkeypatch, failing):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    said = failing("view", "p.png")
    assert "this needs nicegui, which is not installed" in said
    assert "'.[view]'" in said


def test_a_node_cannot_be_looked_at_without_ros(monkeypatch, failing):
    monkeypatch.delitem(sys.modules, "spd_cli.node_page", raising=False)
    monkeypatch.delitem(sys.modules, "spd_ros.observer", raising=False)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert "this needs rclpy, which is not installed: source a ROS 2 installation" in failing("view", "--node")


# --- the page, without a browser


def built(page):
    """A page as it is before its browser has it."""
    with Client(ui.page("/built"), request=None):
        return page()


def test_who_brings_a_value_waits_until_it_or_a_newer_one_is_done():
    done = []

    async def work(value):
        await asyncio.sleep(0.02)
        done.append(value)

    async def bring():
        newest = Newest(work)
        first = asyncio.create_task(newest(0))
        await asyncio.sleep(0)
        older = asyncio.create_task(newest(1))
        await asyncio.sleep(0)
        await newest(2)
        assert done == [0, 2]
        await asyncio.gather(first, older)
        assert done == [0, 2]

    asyncio.run(bring())


def test_no_picture_comes_with_the_depth_or_the_tag_of_another(rooms, embedded):
    page = built(lambda: PicturePage(Gallery([picture_of(rgb) for rgb in rooms[:2]], embedded)))
    page.at, seen, show = (20, 30), [], page.photo.set_source

    def note(source):
        seen.append((page.dense.props.get("src"), page.range.default_slot.children[:], page.reading.text))
        show(source)

    page.photo.set_source = note

    async def walk():
        await page.look(0)
        assert page.dense.props["src"] == "/dense/0"
        await page.look(1)

    asyncio.run(walk())
    assert [layers for *layers, _ in seen] == [[None, []]] * 2
    for (*_, reading), rgb in zip(seen, rooms):
        answer = embedded.encode(rgb, CAMERA).answer(np.array([[20.0, 30.0]]))
        assert " ".join(reading.split()) == said(answer, 0, 20, 30)


def test_pointing_is_at_the_picture_that_the_browser_has(rooms, embedded):
    """Of two sizes: between them, and before the first, a click is of no pixel that is known."""
    large = cv2.resize(rooms[1], None, fx=3, fy=3)
    pictures = [Picture(name, partial(np.asarray, rgb), True) for name, rgb in (("a", rooms[0]), ("b", large))]
    page = built(lambda: PicturePage(Gallery(pictures, embedded)))

    async def click(x, y, kind="click"):
        await page._mouse(SimpleNamespace(type=kind, image_x=x, image_y=y))

    def has(rgb):
        page._loaded(SimpleNamespace(args={"width": rgb.shape[1], "height": rgb.shape[0]}))

    async def walk():
        await page.look(0)
        await click(0.0, 0.0)
        assert page.uv == []
        has(rooms[0])
        await click(64.5, 50.5)
        await click(20.5, 30.5, "mousemove")
        assert (page.uv, page.at) == ([(64, 50)], (20, 30))
        await page.look(1)
        assert (page.at, page.reading.text) == (None, "")
        await click(64.5, 50.5)
        assert page.uv == [(64, 50)]
        has(large)
        await click(190.5, 150.5)
        assert page.uv == [(64, 50), (190, 150)]

    asyncio.run(walk())


def test_a_picture_that_was_replaced_is_read_again(rooms, embedded, tmp_path):
    file = tmp_path / "latest.png"
    gallery = Gallery([Picture(str(file), lambda: read_colour(file))], embedded)
    for rgb in rooms[:2]:
        cv2.imwrite(str(file), rgb[..., ::-1])
        np.testing.assert_array_equal(gallery.look(0).rgb, rgb)
        assert gallery.look(0) is gallery[0]
    cv2.imwrite(str(file), rooms[0][:, :1])
    np.testing.assert_array_equal(gallery[0].rgb, rooms[1])  # what a page shows, until it looks again
    with pytest.raises(SPDError, match=r"latest\.png: image is 1x\d+ px"):
        gallery.look(0)


def test_pictures_that_are_looked_at_at_once_leave_warnings_as_they_are(embedded):
    pictures = [picture_of(np.zeros((64, 96, 3), np.uint8), None) for _ in range(5)]
    filters = list(warnings.filters)
    for _ in range(10):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(Gallery(pictures, embedded).look, range(len(pictures))))
        assert warnings.filters == filters


def test_a_page_opens_where_its_first_picture_has_gone(embedded, tmp_path):
    gone = Picture(str(tmp_path / "gone.png"), lambda: read_colour(tmp_path / "gone.png"))
    page = built(lambda: PicturePage(Gallery([gone], embedded)))
    asyncio.run(page._clear())  # Esc
    asyncio.run(page._show_dense())  # the slider
    asyncio.run(page.look(0))
    assert "gone.png does not exist" in page.name.text
    assert not page.photo.visible
    assert not page.range.visible


def test_a_folder_is_shown_past_pictures_that_are_broken(embedded, rooms, tmp_path, capsys):
    gone = Picture(str(tmp_path / "gone.png"), lambda: read_colour(tmp_path / "gone.png"))
    _say_what_is_wrong(Gallery([gone, picture_of(rooms[0]), gone], embedded))
    assert capsys.readouterr().err == f"error: {tmp_path}/gone.png does not exist\n"
    with pytest.raises(SPDError, match=r"gone\.png does not exist"):
        _say_what_is_wrong(Gallery([gone, gone], embedded))


def test_a_picture_that_is_broken_has_no_address():
    def broken(number):
        raise SPDError(f"{number}.png is empty")

    offer("broken", "image/png", broken)
    answer = TestClient(app).get("/broken/3")
    assert (answer.status_code, answer.text) == (404, "3.png is empty")


# --- the page


@pytest.fixture(scope="module")
def address(rooms, tmp_path_factory):
    """Of a page that shows three rooms, and a file that is none."""
    folder = tmp_path_factory.mktemp("rooms")
    for i, rgb in enumerate(rooms):
        cv2.imwrite(str(folder / f"{i}.png"), rgb[..., ::-1])
    (folder / "3.png").write_text("hello")
    (folder / "camera.txt").write_text(f"{CAMERA.fx} {CAMERA.fy} {CAMERA.cx} {CAMERA.cy}")
    with served(folder, "--device", "cpu", "--runtime", "torch") as address:
        yield address


@pytest.fixture
def page(browser, address):
    page = reached(browser, address)
    yield page
    assert page.complaints == []
    page.close()


def reached(browser, address, **options):
    page = opened(browser, address, ".bar", **options)
    page.wait_for_function("document.querySelector('.photo > img')?.naturalWidth > 0")
    return page


def said(answer, i, u, v):
    x, y, z = answer.xyz_m[i]
    return f"{u}, {v}: {answer.depth_m[i]:.2f} ± {answer.sigma_m[i]:.2f} m (x {x:.2f} y {y:.2f} z {z:.2f})"


@pytest.mark.timeout(600)
def test_pointing_and_clicking_say_what_the_frame_answers(page, rooms, embedded):
    uv = [(20, 30), (100, 60)]
    answer = embedded.encode(rooms[0], CAMERA).answer(np.array(uv, float))
    for i, (u, v) in enumerate(uv):
        page.mouse.move(*at_pixel(page, u, v, SIZE))
        waits_for(page, ".reading", said(answer, i, u, v))
    for u, v in uv:
        page.mouse.click(*at_pixel(page, u, v, SIZE))
    distance_m = np.linalg.norm(answer.xyz_m[1] - answer.xyz_m[0])
    waits_for(page, ".distance", f"{distance_m:.2f} m apart")
    waits_for(page, ".pins", said(answer, 1, *uv[1]))
    assert page.locator(".pin").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_selector(".pin", state="detached")
    assert page.locator(".marks .tag").count() <= 1  # where the pointer is


@pytest.mark.timeout(600)
def test_slider_and_arrow_keys_walk_the_frames_and_pins_stay_at_their_pixels(page, rooms, embedded):
    page.mouse.click(*at_pixel(page, 64, 50, SIZE))
    keys = [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)]
    for key, index in keys:
        page.keyboard.press(key)
        waits_for(page, ".count", f"{index + 1} of 4")
        answer = embedded.encode(rooms[index], CAMERA).answer(np.array([[64.0, 50.0]]))
        waits_for(page, ".pins", said(answer, 0, 64, 50))
        waits_for(page, ".name", f"{index}.png")
    slider = page.locator(".frames").bounding_box()
    page.mouse.click(slider["x"] + slider["width"] - 2, slider["y"] + slider["height"] / 2)
    waits_for(page, ".name.fault", "3.png is text that begins with 'hello'")
    assert page.locator(".count").inner_text() == "4 of 4"
    assert not page.locator(".photo").is_visible()
    page.keyboard.press("ArrowLeft")  # one step, though it is the slider that was touched
    waits_for(page, ".name", "2.png")
    page.wait_for_timeout(300)
    assert page.locator(".count").inner_text() == "3 of 4"
    assert page.locator(".photo").is_visible()
    slider = page.locator(".opacity").bounding_box()
    page.mouse.click(slider["x"] + slider["width"] / 2, slider["y"] + slider["height"] / 2)
    page.keyboard.press("ArrowRight")  # that of the layer
    page.wait_for_function("getComputedStyle(document.querySelector('.dense')).opacity > 0.54")
    assert page.locator(".count").inner_text() == "3 of 4"


@pytest.mark.timeout(600)
def test_dense_depth_is_a_layer_that_can_be_faded(page):
    def opacity():
        return float(page.locator(".dense").evaluate("image => getComputedStyle(image).opacity"))

    page.wait_for_function("document.querySelector('.dense').naturalWidth > 0")
    before, slider = opacity(), page.locator(".opacity").bounding_box()
    page.mouse.click(slider["x"] + 0.9 * slider["width"], slider["y"] + slider["height"] / 2)
    page.wait_for_function("getComputedStyle(document.querySelector('.dense')).opacity > 0.8")
    assert 0 < before < 0.8 < opacity()


@pytest.mark.timeout(600)
def test_the_cloud_is_drawn_and_turns(page):
    def drawn():
        png = page.locator(".scene canvas").screenshot()
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)

    page.wait_for_function("document.querySelector('.scene:not([data-initializing])') !== null")
    before = drawn()
    for _ in range(60):
        if before.std() > 20:
            break
        page.wait_for_timeout(500)
        before = drawn()
    assert before.std() > 20, "nothing but background"
    box = page.locator(".scene").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 30, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert (cv2.absdiff(before, drawn()) > 30).any(axis=2).mean() > 0.05
    assert max(map(len, page.sent)) < 10_000  # and not every point under the pointer


@pytest.mark.timeout(600)
def test_a_phones_width_holds_the_page_and_a_finger_pins(browser, address):
    page = reached(browser, address, viewport={"width": 360, "height": 740}, has_touch=True)
    page.touchscreen.tap(*at_pixel(page, 40, 40, SIZE))
    page.wait_for_selector(".pin")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_text("clear", exact=True).tap()
    page.wait_for_selector(".pin", state="detached")
    page.close()


@pytest.mark.timeout(600)
def test_nothing_is_asked_of_other_machines_nor_answered_to_them(page, address):
    hosts = {urlparse(url).hostname for url in page.requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert len(page.requested) > 10
    port = urlparse(address).port
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    named = urllib.request.Request(address, headers={"Host": "somewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(named)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/picture/4")
