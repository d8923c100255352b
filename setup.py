from glob import glob

from setuptools import find_packages, setup

package = "spd_ros"
TRAINING = ["lightning-fabric", "tensorboard", "h5py", "scipy", "matplotlib"]
setup(
    name=package,
    version="0.1.0",
    packages=find_packages(include=["spd_core*", "spd_ros*", "spd_cli*", "spd_rooms*"]),
    package_data={"spd_core": ["weights/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package}"]),
        (f"share/{package}", ["package.xml"]),
        (f"share/{package}/launch", glob("launch/*.launch.py")),
        (f"share/{package}/config", glob("config/*")),
        (f"share/{package}/training", glob("training/*.yaml")),
    ],
    # What pip can resolve everywhere. rclpy and the messages come from ROS, or from requirements.txt.
    install_requires=["setuptools"],
    extras_require={
        "model": [
            "torch",
            "torchvision",
            "timm",
            "numpy",
            "safetensors",
            "opencv-python-headless",
            "rosbags",
            "rich",
            "jsonargparse[signatures]",
            *TRAINING,
        ],
        "onnx": ["onnx", "onnxruntime"],
    },
    python_requires=">=3.10",
    zip_safe=False,
    maintainer="SPD developers",
    maintainer_email="maintainers@spd-ros.org",
    description="Metric depth at query points of one camera image, with exactly the dense network's values.",
    license="Apache-2.0",
    entry_points={"console_scripts": ["spd_node = spd_ros.node:main", "spd = spd_cli:main"]},
)
