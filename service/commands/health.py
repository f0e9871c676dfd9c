"""`python -m service health`: whether the service that runs here takes requests.

Exit code: 0 ready, 1 not ready, stuck or unreachable, 2 nothing runs.
"""

import http.client
import socket
import ssl
from urllib.parse import urlsplit

from service.commands.command_line import HealthOptions, parse_settings
from service.commands.output import OutputError, print_result
from service.observability.logging import print_error
from service.observability.run_file import NoFolderError, RunningProcess, running_processes
from service.settings import url_host

# What a service that listens on all addresses is asked by.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
READY, NOT_READY, NOTHING_RUNS = 0, 1, 2


def run(options: HealthOptions) -> int:
    """Ask every process of the service, and return the exit code."""
    try:
        processes = [*running_processes()]
    except NoFolderError:  # on a read-only disk, say: then it is where the environment says
        processes = [RunningProcess(0, _address_by_environment(), is_ready=True, started="")]
    if not processes:
        print_error("no service of this user runs here")
        return NOTHING_RUNS

    problems = [problem for each in processes if (problem := _problem(each, options.timeout))]
    for problem in problems:
        print_error(problem)
    if problems:
        return NOT_READY
    try:
        print_result(f"ready: {', '.join(sorted({each.address for each in processes}))}")
    except OutputError as error:  # whoever probes asks for the exit code
        print_error(str(error))
    return READY


def _problem(process: RunningProcess, timeout: float) -> str | None:
    """Return why a process is not ready; None if it is."""
    label = f"process {process.pid} at {process.address}"
    if process.is_stuck:
        return f"{label}: has not moved for {process.seconds_since_touch:.0f} s"
    if not process.is_ready:
        return f"{label}: waits for its bundle, or is ending"
    try:
        status = _ask(process.address, timeout)
    except (OSError, http.client.HTTPException) as error:
        if process.address.startswith("https:") and not isinstance(error, TimeoutError):
            # It listens, and wants a certificate that this command has not: its file says the rest.
            return None if _listens(process.address, timeout) else f"{label}: nobody listens"
        return f"{label}: does not answer: {error}"
    return None if status == http.client.OK else f"{label}: answers {status}"


def _listens(address: str, timeout: float) -> bool:
    try:
        socket.create_connection(_host_and_port(address), timeout).close()
    except OSError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    """Return where an address is reached from this machine."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return ANY_ADDRESS.get(host, host), parts.port or 0


def _address_by_environment() -> str:
    settings = parse_settings([])
    if settings.uds_only:
        return f"unix:{settings.uds}"
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{url_host(settings.host[0])}:{settings.port}"


def _ask(address: str, timeout: float) -> int:
    """Return the status of `GET /health/ready`, asked directly and never by a proxy."""
    if address.startswith("unix:"):
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(timeout)
        connection.sock.connect(address.removeprefix("unix:"))
    else:
        host, port = _host_and_port(address)
        if address.startswith("https:"):
            context = ssl.create_default_context()
            context.check_hostname = False  # it is asked on this machine, whatever its name is
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/health/ready", headers={"Host": "localhost"})
        return connection.getresponse().status
    finally:
        connection.close()
