"""TLS: the settings' certificate, key and authority in, what the servers need to speak TLS out. Knows nothing of what is served."""

import logging
import ssl
from pathlib import Path
from typing import NamedTuple

from service.settings import Settings

log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up


class TlsError(Exception):
    """Raised when a certificate, its key or the clients' authority cannot be used."""


class Pem(NamedTuple):
    """What the files hold: gRPC takes it in place of a context."""

    key: bytes
    certificate: bytes
    authority: bytes | None  # of the clients


def tls_of(settings: Settings) -> "Tls | None":
    """Return what the settings name, or None where TLS is off. Raises `TlsError`."""
    return None if settings.tls_cert is None else Tls(settings)


class Tls:
    """The certificate that the service shows, and the authority whose clients it takes."""

    def __init__(self, settings: Settings) -> None:
        """Read the files. Raises `TlsError`."""
        self._settings = settings
        self._now, self.pem = self._read()
        self._listening = self._now
        self._listening.sni_callback = self._choose

    def __call__(self, *_: object) -> ssl.SSLContext:
        """Return what uvicorn asks its `ssl_context_factory` for."""
        return self._listening

    def reload(self) -> None:
        """Read the files again, for connections from now on. Where that fails, the former certificate stays, and the log says why."""
        try:
            self._now, self.pem = self._read()
        except TlsError as error:
            log.error("%s; the certificate stays as it was", error)
        else:
            log.info("The certificate was read again from %s", self._settings.tls_cert)

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext
    ) -> None:
        """Let a new connection, which begins with the first context, go on with the latest: none is ever half changed."""
        if connection.context is not self._now:
            connection.context = self._now

    def _read(self) -> tuple[ssl.SSLContext, Pem]:
        settings = self._settings
        assert settings.tls_cert is not None  # noqa: S101 - our own invariant: made where TLS is on
        assert settings.tls_key is not None  # noqa: S101 - the settings hold both together
        certificate = _content("--tls-cert", settings.tls_cert)
        key = _content("--tls-key", settings.tls_key)
        if b"-----BEGIN CERTIFICATE-----" not in certificate:
            raise TlsError(f"--tls-cert {settings.tls_cert}: holds no certificate in PEM")
        if b"PRIVATE KEY-----" not in key:
            raise TlsError(f"--tls-key {settings.tls_key}: holds no private key in PEM")
        password = (
            None
            if settings.tls_key_password is None
            else settings.tls_key_password.get_secret_value()
        )
        encrypted = b"ENCRYPTED" in key
        if encrypted and password is None:
            raise TlsError(
                f"--tls-key {settings.tls_key}: is encrypted; set UPRIGHT_TLS_KEY_PASSWORD"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(
                settings.tls_cert, settings.tls_key, lambda: password or ""
            )  # without one OpenSSL asks at the terminal
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsError(
                    f"--tls-key {settings.tls_key}: is not the key of the certificate in {settings.tls_cert}"
                ) from error
            if encrypted:
                raise TlsError(
                    f"--tls-key {settings.tls_key}: cannot be read; is UPRIGHT_TLS_KEY_PASSWORD right?"
                ) from error
            raise TlsError(
                f"--tls-cert {settings.tls_cert} and --tls-key {settings.tls_key}: one of them is damaged PEM"
            ) from error
        authority = None
        if settings.tls_client_ca is not None:
            authority = _content("--tls-client-ca", settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(settings.tls_client_ca)
            except ssl.SSLError as error:
                raise TlsError(
                    f"--tls-client-ca {settings.tls_client_ca}: holds no certificate in PEM that can be read"
                ) from error
        return context, Pem(key, certificate, authority)


def _content(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{flag} {path}: {error.strerror}") from error
