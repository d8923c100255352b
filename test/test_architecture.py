"""The rooms of the house stay apart: what may import what, whichever line of a file does it."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package may import those before it, and itself; the node draws no rooms.
STAIRS = {
    "spd_core": set(),
    "spd_rooms": {"spd_core"},
    "spd_ros": {"spd_core"},
    "spd_cli": {"spd_core", "spd_rooms", "spd_ros"},
    "spd_research": {"spd_core"},
}
ROS = {"rclpy", "sensor_msgs", "std_msgs", "geometry_msgs", "nav_msgs", "diagnostic_msgs", "rcl_interfaces", "tf2_ros"}
FORMER_NAME = ("spd_core.data.samples", "spd_core.data.layouts")  # `open_dataset`, found there by scripts of before


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for package in STAIRS for file in sorted((ROOT / package).rglob("*.py"))}


def imports(name: str, file: Path) -> set[str]:
    """Modules of this repository, and packages of others, that a file imports anywhere but for type checkers."""
    tree = ast.parse(file.read_text())
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {whole if (whole := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return {whole if whole in MODULES else whole.split(".")[0] for whole in found} - {name}


GRAPH = {name: imports(name, file) for name, file in MODULES.items()}


def test_the_reader_of_imports_sees_into_functions_and_past_type_checking():
    assert "spd_cli.node_page" in GRAPH["spd_cli.viewing"]  # in a function
    assert "rclpy" in GRAPH["spd_ros.node"]
    assert "numpy" in GRAPH["spd_core.camera"]
    assert "matplotlib" in GRAPH["spd_core.reports"]
    assert len(MODULES) > 60


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_imported_from_upstairs(name):
    package = name.split(".")[0]
    others = {imported.split(".")[0] for imported in GRAPH[name]} & STAIRS.keys() - {package}
    assert others <= STAIRS[package]


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.startswith(("spd_core", "spd_rooms", "spd_research"))]
)
def test_the_core_knows_no_ros(name):
    assert not GRAPH[name] & ROS


def test_no_modules_import_each_other_in_a_circle():
    ours = {name: {other for other in GRAPH[name] if other in MODULES} for name in MODULES}
    ours[FORMER_NAME[0]] = ours[FORMER_NAME[0]] - {FORMER_NAME[1]}
    graphlib.TopologicalSorter(ours).prepare()


@pytest.mark.parametrize("file", sorted((ROOT / "test").rglob("*.py")), ids=lambda file: file.stem)
def test_no_test_imports_another(file):
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {name for name in names if name and (name.startswith("test_") or name == "conftest")}


def test_no_file_and_no_class_is_too_large_to_be_read_at_once():
    """One that grows beyond has become two things: give the other one a name."""
    sizes = {name: len(file.read_text().splitlines()) for name, file in MODULES.items()}
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                sizes[f"class {name}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert len(sizes) > len(MODULES) + 100
    large = {what: lines for what, lines in sizes.items() if lines > (200 if what.startswith("class") else 350)}
    assert large == {}


def test_the_page_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text()
    words = set(re.findall(r"`(?:[\w/]*[/.])?(\w+?)(?:\.py)?`", "".join(page.split("```")[::2])))
    unnamed = [name for name in MODULES if name.split(".")[-1] not in words | {"__main__", "data", *STAIRS}]
    assert unnamed == []
