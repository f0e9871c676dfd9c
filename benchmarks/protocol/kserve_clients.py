"""Every call of KServe's own clients, REST and gRPC, by the name of an InferenceService.

    python -m benchmarks.protocol.kserve_clients

Installs kserve into an environment of its own, starts the service, and prints a line a call. Exits
with 1 where an answer is wrong, or a refusal does not say what is not there.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.environments import environment
from tests.support.service import free_port, reachable, service, wait_for

REQUIREMENTS = Path(__file__).with_name("kserve.txt")
CALLS = Path(__file__).with_name("kserve_calls.py")
NAME = "my-inference-service"


def main() -> int:
    """Start the service, and make the calls in the environment that has the clients."""
    folder = environment("kserve", REQUIREMENTS)
    http, grpc = free_port(), free_port()
    with service(http, "--grpc-port", str(grpc), "--model-name", NAME, "--drain", "0"):
        wait_for(lambda: reachable(http) and reachable(grpc))
        command = [str(folder / "bin" / "python"), "-W", "ignore", str(CALLS)]
        return subprocess.run([*command, str(http), str(grpc), NAME], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
