"""The examples do what their first lines promise."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.robot import CAMERA, TOPICS, client, rgb  # noqa: F401

from spd_core import Predictor
from spd_ros.processes import running_node, stop_node

EXAMPLES = Path(__file__).parent.parent / "examples"
PIXELS = ["320,240", "100.5,50", "900,50"]
UV = np.array([[float(number) for number in pixel.split(",")] for pixel in PIXELS])


@pytest.fixture(scope="module")
def xyz_m(rgb) -> np.ndarray:
    """The same points asked in this process."""
    return Predictor.load("embedded").encode(rgb, CAMERA).answer(UV).xyz_m


def test_a_script_asks_about_a_photograph(tmp_path, rgb, xyz_m):
    cv2.imwrite(str(tmp_path / "photo.png"), rgb[..., ::-1])
    camera = f"{CAMERA.fx},{CAMERA.fy},{CAMERA.cx},{CAMERA.cy}"
    command = [sys.executable, EXAMPLES / "ask_image.py", tmp_path / "photo.png", *PIXELS, "--camera", camera]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.partition(" px")[0] for line in lines] == ["(320, 240)", "(100.5, 50)", "(900, 50)"]
    for line, (x, y, z) in zip(lines[:2], xyz_m):
        assert f"{z:.2f} m, xyz ({x:.2f}, {y:.2f}, {z:.2f}) m, OK" in line
    assert lines[2].endswith("nan m, xyz (nan, nan, nan) m, OUTSIDE_IMAGE")


def test_a_script_says_that_a_file_is_no_image(tmp_path, monkeypatch, capsys):
    (tmp_path / "photo.png").write_text("no")
    monkeypatch.setattr(sys, "argv", ["ask_image.py", str(tmp_path / "photo.png"), "1,1"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLES / "ask_image.py"), run_name="__main__")
    assert stop.value.code == 2
    assert "photo.png is not an image" in capsys.readouterr().err


def test_a_node_asks_about_each_image_and_reads_the_answers(tmp_path, client, rgb, xyz_m):
    log = tmp_path / "printed"
    command = [sys.executable, EXAMPLES / "ask_node.py", *PIXELS, "--ros-args", "-r", f"image:={TOPICS['image']}"]
    settings = {"runtime": "torch", "grid": [4, 3]}  # an answer to everyone about each image, beside those asked for
    with running_node(TOPICS, settings) as node, log.open("w") as printed:
        asking = subprocess.Popen(command, stdout=printed)
        try:
            client.connect(node)
            client.spin(lambda: client.images.get_subscription_count() == 2)
            client.spin(lambda: client.count_publishers("/spd/query_points") == 2)
            client.idle(1.0)
            stamps = []
            while len(log.read_text().splitlines()) < 6 and len(stamps) < 20:
                stamps.append(client.show(rgb).stamp.sec)
                client.idle(0.5)
        finally:
            assert stop_node(asking) == 0
    assert node.returncode == 0
    lines = log.read_text().splitlines()
    answered = [re.match(r"(\d+)\.0{9} \((\S+), (\S+)\) px: (.*)", line).groups() for line in lines]
    assert len(answered) >= 6
    for i, (stamp, u, v, said) in enumerate(answered):
        assert int(stamp) == stamps[i // 3]
        np.testing.assert_allclose([float(u), float(v)], UV[i % 3], atol=1e-3)
        x, y, z = xyz_m[i % 3]
        assert said == (f"({x:.2f}, {y:.2f}, {z:.2f}) m" if i % 3 < 2 else "OUTSIDE_IMAGE, depth nan m")
