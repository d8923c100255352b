"""The ROS 2 node of SPD."""

import os

# OpenMP threads wait by spinning unless told otherwise before torch is loaded: on a robot's few cores they then starve
# the camera driver and the DDS threads beside them (two busy processes on two cores: 35 times slower, measured in
# training).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault(
    "GOMP_SPINCOUNT", "10000"
)  # about 30 us: enough to catch the next layer (a query of 128 points takes 8 instead of 12 ms)
