"""What colcon and ament need beside pyproject.toml."""

from glob import glob

from setuptools import setup

setup(
    license="Apache-2.0",  # in pyproject.toml no form of it suits both setuptools 68 (Ubuntu 24.04) and 80
    python_requires=">=3.11",  # from pyproject.toml it reaches colcon as an object, which colcon cannot read
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/spd_ros"]),
        # `colcon build --symlink-install` builds in a folder that has these files and the packages, nothing else.
        ("share/spd_ros", ["package.xml", "pyproject.toml", "README.md"]),
        ("share/spd_ros/launch", glob("launch/*.launch.py")),
        ("share/spd_ros/config", glob("config/*")),
        ("share/spd_ros/training", glob("training/*.yaml")),
    ],
)
