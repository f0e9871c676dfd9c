"""TLS by every protocol: client certificates, renewed certificates, files that are wrong."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from upright_client import PolicyClient
from websockets.sync.client import connect

from service.auth.tls import Tls, TlsError
from tests.support.clients import PATIENT, SHORT, STATE, InLoop, Make
from tests.support.project import ROOT
from tests.support.service import Start, clean_environment, free_port, refused, settings, wait_for

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # what other people's modules warn of when they are imported is no claim of ours
    import grpc

BODY = b'{"state":[0,0,0.05,0]}'
PASSWORD = "kept in the environment"  # noqa: S105 - the test's own


@dataclass(frozen=True)
class Files:
    """A certificate with its key, its authority, and clients' certificates of two authorities."""

    ca: trustme.CA
    authority: Path
    certificate: Path
    key: Path
    client: Path
    stranger: Path

    @property
    def flags(self) -> tuple[str, ...]:
        return "--tls-cert", str(self.certificate), "--tls-key", str(self.key)

    def renew(self) -> None:
        made = self.ca.issue_cert("127.0.0.1")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        if client is not None:
            context.load_cert_chain(client)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "tls"
    folder.mkdir()
    ca = trustme.CA()
    made = Files(
        ca,
        *(
            folder / f"{name}.pem"
            for name in ("authority", "certificate", "key", "client", "stranger")
        ),
    )
    ca.cert_pem.write_to_path(made.authority)
    ca.issue_cert("loop@example.org").private_key_and_cert_chain_pem.write_to_path(made.client)
    trustme.CA().issue_cert("loop@example.org").private_key_and_cert_chain_pem.write_to_path(
        made.stranger
    )
    made.renew()
    return made


@dataclass
class Running:
    """A service with TLS, by all of its protocols."""

    address: str
    grpc: str
    process: int
    log: Path


Serve = Callable[..., Any]


@pytest.fixture
def serve(start: Start, files: Files, tmp_path: Path) -> Serve:
    @contextmanager
    def serving(*arguments: str) -> Iterator[Running]:
        port, log = free_port(), tmp_path / "service.log"
        with start("--grpc-port", str(port), *files.flags, *arguments) as address:
            wait_for(lambda: "startup complete" in log.read_text())
            process = int(re.findall(r"Started server process \[(\d+)\]", log.read_text())[0])
            yield Running(address, f"127.0.0.1:{port}", process, log)

    return serving


def status(address: str, context: ssl.SSLContext) -> int | None:
    try:
        return httpx2.post(f"{address}/act", content=BODY, verify=context).status_code
    except httpx2.TransportError:
        return None


def shown(address: str, context: ssl.SSLContext) -> str:
    """Return the serial number of the certificate that the service shows on a port."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host.removeprefix("https://"), int(port))) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        found = connection.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def ready(place: str, files: Files, client: Path | None = None) -> bool:
    """Return whether the service answers over gRPC."""
    pem = None if client is None else client.read_bytes()
    with grpc.secure_channel(
        place, grpc.ssl_channel_credentials(files.authority.read_bytes(), pem, pem)
    ) as channel:
        try:
            channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=PATIENT)
        except grpc.RpcError:
            return False
        return True


def test_every_port_speaks_tls_and_none_speaks_in_clear(serve: Serve, files: Files) -> None:
    with serve() as running:
        assert running.address.startswith("https://")
        log = running.log.read_text()
        assert f"Listening on {running.address}" in log
        assert f"Listening on grpcs://{running.grpc}" in log
        assert status(running.address, files.context()) == 200
        with connect(
            f"{running.address.replace('https', 'wss')}/act/stream", ssl=files.context()
        ) as stream:
            stream.send(BODY)
            assert '"action":1' in str(stream.recv(PATIENT))
        assert ready(running.grpc, files)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{running.address.replace('https', 'http')}/health/ready")
        with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=PATIENT)
    assert "Traceback" not in running.log.read_text()


def test_only_clients_with_a_certificate_of_the_authority_are_answered(
    serve: Serve, files: Files
) -> None:
    with serve("--tls-client-ca", str(files.authority)) as running:
        assert status(running.address, files.context(files.client)) == 200
        assert ready(running.grpc, files, files.client)
        for client in (None, files.stranger):
            assert status(running.address, files.context(client)) is None
            assert not ready(running.grpc, files, client)


def test_sighup_renews_the_certificate_and_files_that_do_not_fit_change_nothing(
    serve: Serve, files: Files
) -> None:
    with serve("--tls-client-ca", str(files.authority)) as running:
        context = files.context(files.client)
        over_grpc = files.context(files.client)
        over_grpc.set_alpn_protocols(["h2"])
        first = shown(running.address, context)
        assert shown(running.grpc, over_grpc) == first
        key = files.key.read_bytes()
        files.renew()
        renewed, new_key = files.certificate.read_bytes(), files.key.read_bytes()
        files.key.write_bytes(key)
        os.kill(running.process, signal.SIGHUP)
        wait_for(lambda: "the certificate stays as it was" in running.log.read_text())
        assert {shown(running.address, context), shown(running.grpc, over_grpc)} == {first}
        files.key.write_bytes(new_key)
        os.kill(running.process, signal.SIGHUP)
        wait_for(lambda: "The certificate was read again" in running.log.read_text())
        assert files.certificate.read_bytes() == renewed
        second = shown(running.address, context)
        assert second != first
        assert shown(running.grpc, over_grpc) == second
        assert status(running.address, files.context(files.client)) == 200
        assert status(running.address, files.context(files.stranger)) is None


def test_every_worker_speaks_tls(start: Start, files: Files, tmp_path: Path) -> None:
    with start("--workers", "2", *files.flags) as address:
        wait_for(lambda: (tmp_path / "service.log").read_text().count("startup complete") == 2)
        assert {status(address, files.context()) for _ in range(10)} == {200}


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
@pytest.mark.parametrize("transport", ["http", "stream"])
def test_the_client_speaks_tls(serve: Serve, files: Files, make: Make, transport: str) -> None:
    with serve("--tls-client-ca", str(files.authority)) as running:
        context = files.context(files.client)
        with make(
            running.address, transport=transport, deadline=PATIENT, fallback=0, ssl_context=context
        ) as client:
            states = [(0.0, 0.0, angle / 1_000, 0.0) for angle in range(-100, 100)]
            batch = [decision.q_values for decision in client.act_batch(states)]
            assert [client.act(state).q_values for state in states] == batch
            assert len(client.act_batch(states * 40)) == 8_000  # an answer of many TLS records
            assert client.ready()
            assert client.counters().fallbacks == {}


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
@pytest.mark.parametrize("transport", ["http", "stream"])
def test_a_service_that_the_client_does_not_trust_never_decides(
    serve: Serve, files: Files, make: Make, transport: str
) -> None:
    with serve() as running:
        elsewhere = running.address.replace(
            "127.0.0.1", "localhost"
        )  # the certificate is for the other name
        for address, context in ((running.address, None), (elsewhere, files.context())):
            with make(
                address, transport=transport, deadline=PATIENT, fallback=1, ssl_context=context
            ) as client:
                decision = client.act(STATE)
                assert (decision.source, decision.reason) == ("fallback", "disconnected")
                assert not client.ready()


def test_the_client_says_what_it_does_not_trust(serve: Serve) -> None:
    with serve() as running, PolicyClient(running.address, deadline=PATIENT, fallback=1) as client:
        client.act(STATE)
        assert "certificate verify failed" in client.last_error


def test_a_client_without_a_certificate_falls_back_where_one_is_asked_for(
    serve: Serve, files: Files
) -> None:
    with serve("--tls-client-ca", str(files.authority)) as running:
        for client_certificate in (None, files.stranger):
            context = files.context(client_certificate)
            with PolicyClient(
                running.address, deadline=PATIENT, fallback=1, ssl_context=context
            ) as client:
                assert client.act(STATE).source == "fallback"


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
def test_a_context_that_cannot_be_used_is_misuse(make: Make, files: Files) -> None:
    for address, context, error in (
        ("http://127.0.0.1:1", files.context(), ValueError),
        ("https://127.0.0.1:1", "trust everybody", TypeError),
        ("https://.a:1", files.context(), ValueError),
    ):
        with pytest.raises(error):
            make(address, fallback=0, ssl_context=context)


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
def test_a_service_that_speaks_in_clear_is_no_service_to_a_client_that_asks_for_tls(
    start: Start, make: Make, files: Files
) -> None:
    with (
        start() as address,
        make(
            address.replace("http", "https"),
            deadline=SHORT,
            fallback=1,
            ssl_context=files.context(),
        ) as client,
    ):
        assert client.act(STATE).source == "fallback"


def encrypted(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    protected = serialization.BestAvailableEncryption(PASSWORD.encode())
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protected)
    )


def test_the_password_of_a_key_comes_from_the_environment_alone_and_is_never_shown(
    files: Files, tmp_path: Path
) -> None:
    encrypted(files)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "service", "--port", "0", "--drain", "0", *files.flags]
    with log.open("wb") as output:
        environment = clean_environment() | {"UPRIGHT_TLS_KEY_PASSWORD": PASSWORD}
        with subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=environment
        ) as process:
            try:
                wait_for(lambda: "startup complete" in log.read_text())
            finally:
                process.terminate()
    assert PASSWORD not in log.read_text()
    code, complaint = refused(*files.flags, f"--tls-key-password={PASSWORD}")
    assert code == 2
    assert PASSWORD not in complaint
    help_text = subprocess.run(
        [*command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    ).stdout
    assert "--tls-cert" in help_text
    assert "--tls-key-password" not in help_text


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("no-certificate", "--tls-cert {certificate}: No such file or directory"),
        ("no-key", "--tls-key {key}: No such file or directory"),
        ("no-authority", "--tls-client-ca {authority}: No such file or directory"),
        ("unreadable", "--tls-key {key}: Is a directory"),
        ("exchanged", "--tls-cert {certificate}: holds no certificate in PEM"),
        ("empty-key", "--tls-key {key}: holds no private key in PEM"),
        ("empty-authority", "--tls-client-ca {authority}: holds no certificate in PEM"),
        ("damaged", "--tls-cert {certificate} and --tls-key {key}: one of them is damaged PEM"),
        ("another-key", "--tls-key {key}: is not the key of the certificate in {certificate}"),
        ("encrypted", "--tls-key {key}: is encrypted; set UPRIGHT_TLS_KEY_PASSWORD"),
        ("wrong-password", "--tls-key {key}: cannot be read; is UPRIGHT_TLS_KEY_PASSWORD right?"),
    ],
)
def test_files_that_cannot_be_used_are_named(files: Files, damage: str, named: str) -> None:
    password = None
    match damage:
        case "no-certificate":
            files.certificate.unlink()
        case "no-key":
            files.key.unlink()
        case "no-authority":
            files.authority.unlink()
        case "unreadable":
            files.key.unlink()
            files.key.mkdir()
        case "exchanged":
            files.certificate.write_bytes(files.key.read_bytes())
        case "empty-key":
            files.key.write_text("")
        case "empty-authority":
            files.authority.write_text("")
        case "damaged":
            files.certificate.write_text(files.certificate.read_text().replace("M", "!"))
        case "another-key":
            key = files.key.read_bytes()
            files.renew()
            files.key.write_bytes(key)
        case "encrypted":
            encrypted(files)
        case "wrong-password":
            encrypted(files)
            password = "guessed"  # noqa: S105 - the test's own
    chosen = {
        "tls_cert": files.certificate,
        "tls_key": files.key,
        "tls_client_ca": files.authority,
        "tls_key_password": password,
    }
    with pytest.raises(TlsError) as raised:
        Tls(settings(**chosen))
    assert str(raised.value).startswith(
        named.format(certificate=files.certificate, key=files.key, authority=files.authority)
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_cannot_be_used_stops_the_start_with_one_line_before_anything_listens(
    files: Files, workers: str
) -> None:
    files.key.unlink()
    code, complaint = refused(*files.flags, "--workers", workers)
    assert (code, complaint) == (1, f"upright: --tls-key {files.key}: No such file or directory\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tls-cert", "c.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-key", "k.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "a.pem"], "--tls-client-ca needs --tls-cert"),
        (
            ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--uds", "act.sock"],
            "--uds and --tls-cert do not go together",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(arguments: list[str], named: str) -> None:
    code, complaint = refused(*arguments)
    assert (code, complaint.count("\n")) == (2, 1)
    assert named in complaint


def test_grpc_with_a_password_is_refused() -> None:
    flags = ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--grpc-port", "0"]
    code, complaint = refused(*flags, environment={"UPRIGHT_TLS_KEY_PASSWORD": PASSWORD})
    assert (code, complaint.count("\n")) == (2, 1)
    assert "--grpc-port needs a --tls-key that is not encrypted" in complaint
    assert PASSWORD not in complaint


def test_with_watch_a_renewed_certificate_is_seen_without_a_signal(
    start: Start, files: Files, tmp_path: Path
) -> None:
    # As Kubernetes mounts a Secret: links into a folder, which is a link that is replaced.
    def mount(version: str) -> None:
        data = tmp_path / version
        data.mkdir()
        for file in (files.certificate, files.key):
            (data / file.name).write_bytes(file.read_bytes())
        link = tmp_path / ".new"
        link.symlink_to(data.name)
        link.replace(tmp_path / "data")

    def serial() -> int:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as connection,
            files.context().wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            certificate = secured.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    mount("first")
    flags = [
        *("--tls-cert", str(tmp_path / "data" / files.certificate.name)),
        *("--tls-key", str(tmp_path / "data" / files.key.name)),
        *("--watch", "0.1"),
    ]
    with start(*flags) as address:
        port = int(address.rpartition(":")[2])
        before = serial()
        files.renew()
        mount("second")
        wait_for(lambda: serial() != before, 10)
