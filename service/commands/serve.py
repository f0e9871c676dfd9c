"""Serving: checks everything that the settings name, then listens."""

import gc
import logging
import logging.config
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from service.auth import key_file, keys, tls
from service.auth.keys import KeysError
from service.auth.tls import TlsError
from service.inference import admission, signature
from service.inference.policy import Policy
from service.inference.signature import VerifyKeyError
from service.observability.logging import configuration, print_error
from service.server import server, sockets, supervisor
from service.server.sockets import SocketError
from service.server.supervisor import SupervisorError
from service.server.waiting import BundleDidNotComeError, wait_for_bundle
from service.settings import Settings
from service.state import ServiceState

log = logging.getLogger("uvicorn.error")  # the log of the server

CANNOT_START = 1
WRONG_SETTING = 2


class StartError(Exception):
    """Raised when the service cannot start; holds the exit code."""

    def __init__(self, message: str, code: int = CANNOT_START) -> None:
        super().__init__(message)
        self.code = code


def run(settings: Settings) -> int:
    """Serve until told to stop. Returns 1 when the service cannot start, 2 for a wrong setting."""
    try:
        _check_extras(settings)
        with ExitStack() as stack:
            return _serve(settings, stack)
    except StartError as error:
        print_error(str(error), settings.log_format)
        return error.code
    except (
        *admission.REFUSALS,
        KeysError,
        TlsError,
        SocketError,
        SupervisorError,
        BundleDidNotComeError,
        VerifyKeyError,
    ) as error:
        print_error(str(error), settings.log_format)
        return CANNOT_START


def _serve(settings: Settings, stack: ExitStack) -> int:
    """Serve; what was opened for it is closed with `stack`. Returns the exit code."""
    listeners = None
    if settings.bundle_wait:
        # Open from now on: callers that come while the bundle is examined wait for their answer.
        listeners = stack.enter_context(sockets.listening(settings))
        if not wait_for_bundle(settings, listeners):
            return 0  # it was told to stop

    policy, shadow = admission.at_start(settings)
    service_state = ServiceState(
        policy, keys=key_file.keys_from_settings(settings), tls=tls.tls_from_settings(settings)
    )
    if listeners is None:
        listeners = stack.enter_context(sockets.listening(settings))
    if settings.grpc_port is not None:
        sockets.check_free(settings.host, settings.grpc_port)
    if settings.record is not None:
        _check_record(settings.record, policy)
    processes = None
    if settings.workers > 1:
        processes = stack.enter_context(supervisor.prepared(settings, policy.bundle, listeners))

    logging.config.dictConfig(configuration(settings.log_format))
    sockets.announce(listeners, tls=service_state.tls is not None)
    keys.announce(settings)
    log.info(_description(settings, policy))
    if processes is not None:
        gc.enable()  # `service.__main__` disables it; a process that serves enables it later
        return processes.run()
    has_started = server.serve(settings, service_state, listeners, shadow=shadow)
    return 0 if has_started else CANNOT_START  # the log says why


def _description(settings: Settings, policy: Policy) -> str:
    """Return what is served, and what goes on beside the answers, as a line of the log."""
    bundle = policy.bundle
    parts = [
        f"Serving {bundle.manifest.name}, version {bundle.manifest.version}, from {bundle.folder}:"
        f" {bundle.digest}, by {policy.backend_name},"
        f" for steps of {bundle.manifest.environment.step_seconds:g} s"
    ]
    if settings.shadow is not None:
        parts.append(f"shadow {settings.shadow}")
    if settings.record is not None:
        parts.append(f"record {settings.record}")
    if settings.watch:
        parts.append(f"watched each {settings.watch:g} s")
    return "; ".join(parts)


def _check_extras(settings: Settings) -> None:
    """Check that what a setting needs is installed, and set as it must be."""
    if settings.grpc_port is not None and find_spec("grpc") is None:
        raise StartError(
            "--grpc-port needs grpc, which is not installed:"
            " in a checkout, .venv/bin/pip install '.[grpc]'"
        )
    if settings.tracing:
        _check_tracing(settings)
    if settings.verify_key is not None:
        signature.check_key(settings.verify_key)


def _check_tracing(settings: Settings) -> None:
    # The libraries log what they make of a wrong variable, some of it as they are imported.
    logging.config.dictConfig(configuration(settings.log_format))
    try:
        tracing = import_module("service.observability.tracing")
    except ModuleNotFoundError as error:
        raise StartError(
            "--tracing needs OpenTelemetry, which is not installed:"
            " in a checkout, .venv/bin/pip install '.[tracing]'"
        ) from error
    except Exception as error:  # with some values OpenTelemetry cannot even be imported
        raise StartError(f"--tracing: {error}", WRONG_SETTING) from error

    try:
        tracing.check_environment()
    except tracing.TracingError as error:
        raise StartError(f"--tracing: {error}", WRONG_SETTING) from error


def _check_record(record: Path, policy: Policy) -> None:
    # It needs SQLite, which takes time to import.
    from service.records.schema import RecordError
    from service.records.writer import check

    try:
        check(record, policy.bundle.manifest)
    except RecordError as error:
        raise StartError(f"--record {error}") from error
