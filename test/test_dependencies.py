"""What is installed: pyproject.toml has the one list, and everything else that names packages agrees with it and with
what the code imports."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

import spd_core
from spd_core.errors import SPDError
from spd_core.extras import extra

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGE_XML = ET.parse(ROOT / "package.xml").getroot()
OURS = ("spd_core", "spd_ros", "spd_cli", "spd_rooms")
ROS = re.compile(r"rclpy|launch\w*|ament_\w+|tf2_ros|cv_bridge|sensor_msgs_py|\w+_(msgs|interfaces)")
# Where a package is called otherwise than the module in it.
ON_PYPI = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "backports": "backports-zstd"}
STANDARD = {*sys.stdlib_module_names, "compression"}  # the last from Python 3.14 on
IN_ROS = {"cv2": "python3-opencv", "numpy": "python3-numpy", "tf2_ros": "tf2_ros_py", "yaml": "python3-yaml"}


def required(requirements: list[str]) -> set[str]:
    """Names of the packages, as pip compares them."""
    names = (re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def with_dependencies(names: set[str]) -> set[str]:
    """The packages, and what the installed ones say that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            with suppress(metadata.PackageNotFoundError):
                waiting += required([r for r in metadata.requires(name) or [] if "extra ==" not in r])
    return found


def on_pypi(module: str) -> str:
    return ON_PYPI.get(module, module.replace("_", "-"))


def imports(file: Path) -> tuple[set[str], dict[str, set[str]]]:
    """Modules of others that `file` imports, and those that it imports inside `with extra(name)`, by name. What only a
    type checker imports does not count."""
    plain: set[str] = set()
    by_extra: dict[str, set[str]] = {}

    def visit(node: ast.AST, into: set[str]) -> None:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                return
            case ast.With(items=[ast.withitem(ast.Call(ast.Name("extra"), [ast.Constant(name)]))]):
                into = by_extra.setdefault(name, set())
            case ast.ImportFrom(module="torch.utils.tensorboard"):  # torch's door to another package
                into.add("tensorboard")
            case ast.ImportFrom(level=0):
                into.add(node.module)
            case ast.Import():
                into.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, into)

    def foreign(modules: set[str]) -> set[str]:
        return {m.partition(".")[0] for m in modules} - STANDARD - set(OURS)

    visit(ast.parse(file.read_text()), plain)
    return foreign(plain), {name: foreign(modules) for name, modules in by_extra.items()}


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", sources(*OURS), ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_imported_is_a_dependency_or_belongs_to_the_extra_that_is_named(file):
    plain, by_extra = imports(file)
    if file.is_relative_to(ROOT / "spd_ros"):
        plain = {module for module in plain if not ROS.fullmatch(module)}
    assert {on_pypi(module) for module in plain} <= required(PROJECT["dependencies"])
    for name, modules in by_extra.items():
        wheels = {f"ros-{on_pypi(module)}" if ROS.fullmatch(module) else on_pypi(module) for module in modules}
        assert wheels <= required(EXTRAS[name])


def test_package_xml_lists_what_is_imported_from_ros_and_no_more():
    def listed(kind: str) -> set[str]:
        return {element.text for element in PACKAGE_XML.findall(kind)}

    def used(*folders: str) -> set[str]:
        modules = {module for file in sources(*folders) for module in imports(file)[0]}
        return {IN_ROS.get(module, module) for module in modules if ROS.fullmatch(module) or module in IN_ROS}

    assert listed("exec_depend") == used("spd_core", "spd_ros", "spd_cli", "launch")
    optional = set(re.findall(r'importorskip\(\s*"(\w+)"', "".join(f.read_text() for f in sources("test"))))
    tested = used("test", "examples") | {IN_ROS.get(module, module) for module in optional if ROS.fullmatch(module)}
    assert tested - listed("exec_depend") <= listed("test_depend")


def test_what_package_xml_brings_and_what_readme_installs_by_pip_is_all_that_is_needed():
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## In a ROS workspace") :].partition("\n## ")[0]
    commands = re.findall(r"^pip install (.*)", section, re.M)
    by_pip = with_dependencies(required([word for c in commands for word in shlex.split(c, comments=True)]))
    by_ros = {on_pypi(module) for module in ("cv2", "numpy", "yaml")}
    needed = required([*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["onnx"]])
    assert needed - by_ros <= by_pip


def test_requirements_are_pinned_name_no_host_and_cover_every_extra_that_make_setup_installs():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line.lstrip()[0] != "#"]
    assert all("==" in line for line in lines)
    assert "://" not in "".join(lines)
    wanted = [*PROJECT["dependencies"]]
    for name in re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split():
        wanted += EXTRAS[name]
    assert required(wanted) - {"spd-ros"} <= required(lines)


def test_one_version():
    assert PACKAGE_XML.findtext("version") == spd_core.__version__
    assert "version" in PROJECT["dynamic"]


def test_one_oldest_python():
    oldest = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())[1]
    named = {
        "README.md": r"Python 3\.(\d+) or newer",
        "Makefile": r"PYTHON_VERSION := >=3\.(\d+),",
        "pyproject.toml": r'target-version = "py3(\d+)"',
        ".github/workflows/ci.yml": r'python: \["3\.(\d+)"',
    }
    for file, pattern in named.items():
        assert set(re.findall(pattern, (ROOT / file).read_text())) == {oldest}, file
    classifiers = [c for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert classifiers[0].endswith(f"3.{oldest}")


def test_a_missing_extra_is_named_with_the_way_to_get_it():
    way = r"this needs no_such_package.*pip install no-such-package.*'\.\[train\]'"
    with pytest.raises(SPDError, match=way), extra("train"):
        import no_such_package.part  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"spd_core\.no_such_module"), extra("train"):  # stays a bug
        import spd_core.no_such_module  # noqa: F401


def test_everything_but_training_is_imported_without_the_training_extra():
    """And the core without ROS and all that stands above it."""
    code = """
import importlib, pkgutil, sys
absent = {"matplotlib", "h5py", "scipy", "lightning_fabric", "tensorboard", "onnx", "onnxruntime", "rclpy"}
absent |= {"nicegui", "starlette"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for package in ("spd_core", "spd_cli", "spd_rooms"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if module.name not in ("spd_core.training", "spd_cli.__main__", "spd_cli.node_page"):
            importlib.import_module(module.name)
    if package == "spd_core":
        above = {"rclpy", "sensor_msgs", "std_msgs", "spd_ros", "spd_cli", "spd_rooms", "cv_bridge", "launch"}
        assert not above & {name.partition(".")[0] for name in sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
