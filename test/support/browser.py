"""A page of `spd view` and a browser without a screen that opens it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlparse

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",  # WebGL by the processor
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PATIENCE_MS = 60_000  # a machine that trains beside it


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def served(*arguments):
    """The address of the page that `spd view` with these arguments serves for as long as the block lasts."""
    command = [sys.executable, "-m", "spd_cli", "view", *map(str, arguments), "--browser", "false"]
    # NiceGUI serves elsewhere where it takes itself for the thing that is tested.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            said = process.stdout.readline()
            assert said, f"the page ended with exit code {process.wait()}"
        while not is_answering(urlparse(found[0]).port):
            time.sleep(0.1)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def opened(browser, address, ready, **options):
    """A page at a desktop's size, once it has the element `ready`; what it asks for is in `requested`, what it says to
    the server in `sent`, and what it complains of in `complaints`."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
    page.set_default_timeout(PATIENCE_MS)
    page.requested, page.complaints, page.sent = [], [], []

    def listen(socket):
        page.requested.append(socket.url)
        socket.on("framesent", lambda sent: page.sent.append(sent))

    page.on("request", lambda request: page.requested.append(request.url))
    page.on("websocket", listen)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector(ready)
    return page


def is_answering(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def at_pixel(page, u, v, size):
    """Where the page has a pixel of its picture, which is one of `size` (height, width) px."""
    box = page.locator(".photo > img").first.bounding_box()
    return box["x"] + (u + 0.5) / size[1] * box["width"], box["y"] + (v + 0.5) / size[0] * box["height"]


def waits_for(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
    )
