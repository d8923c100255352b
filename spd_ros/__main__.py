"""The executable `spd_node`."""

import os
import signal
import sys
from contextlib import suppress

from spd_core.process import wait_asleep


def main() -> int:
    """Run the node, in a process whose waiting threads sleep, with this package's Fast DDS profile unless another is
    set."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # until there is a node to end, also while torch is imported
        signal.signal(signum, lambda *_: os._exit(0))
    wait_asleep()
    from ament_index_python.packages import PackageNotFoundError

    from .processes import use_fastdds_profile

    with suppress(PackageNotFoundError):  # of an installation that ROS does not know
        use_fastdds_profile()
    from .node import main as spin

    return spin()


if __name__ == "__main__":
    sys.exit(main())
