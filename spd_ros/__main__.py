"""The executable `spd_node`."""

import os
import signal
import sys
from contextlib import suppress


def main() -> int:
    """Run the node, in a process whose waiting threads sleep, with this package's Fast DDS profile unless another is
    set."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # until there is a node to end, also while torch is imported
        signal.signal(signum, lambda *_: os._exit(0))
    # OpenMP threads wait by spinning unless told otherwise before torch is loaded: on a robot's few cores they then
    # starve the camera driver and the DDS threads beside them (two busy processes on two cores: 35 times slower,
    # measured in training). 10,000 spins are about 30 us, enough to catch the next layer (a query of 128 points takes 8
    # instead of 12 ms).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from ament_index_python.packages import PackageNotFoundError

    from .processes import use_fastdds_profile

    with suppress(PackageNotFoundError):  # of an installation that ROS does not know
        use_fastdds_profile()
    from .node import main as spin

    return spin()


if __name__ == "__main__":
    sys.exit(main())
