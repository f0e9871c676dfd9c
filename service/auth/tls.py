"""TLS: the certificate, the key and the clients' authority that the settings name."""

import logging
import ssl
from pathlib import Path
from typing import NamedTuple

from service.settings import Settings

log = logging.getLogger("uvicorn.error")  # the server's own log


class TlsError(Exception):
    """Raised when a certificate, its key or the clients' authority cannot be used."""


class Pem(NamedTuple):
    """What the files hold: gRPC takes it in place of a context."""

    key: bytes
    certificate: bytes
    authority: bytes | None  # of the clients


def tls_from_settings(settings: Settings) -> "Tls | None":
    """Return what the settings name, or None where TLS is off. Raises `TlsError`."""
    return None if settings.tls_cert is None else Tls(settings)


class Tls:
    """The certificate that the service shows, and the authority whose clients it accepts."""

    def __init__(self, settings: Settings) -> None:
        """Read the files. Raises `TlsError`."""
        self._settings = settings
        self._latest, self.pem = _read(settings)
        # Every connection begins with the context of the start, and goes on with the latest.
        self._listening = self._latest
        self._listening.sni_callback = self._use_latest

    def __call__(self, *_: object) -> ssl.SSLContext:
        """Return what uvicorn asks its `ssl_context_factory` for."""
        return self._listening

    def reload(self) -> None:
        """Read the files again, for connections from now on.

        Where that fails, the present certificate stays, and the log says why.
        """
        try:
            self._latest, self.pem = _read(self._settings)
        except TlsError as error:
            log.error("%s; the certificate stays as it was", error)
        else:
            log.info("The certificate was read again from %s", self._settings.tls_cert)

    def _use_latest(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext
    ) -> None:
        """Let a new connection go on with the latest context: none is ever half changed."""
        if connection.context is not self._latest:
            connection.context = self._latest


def _read(settings: Settings) -> tuple[ssl.SSLContext, Pem]:
    """Return the context that the settings name, and what its files hold. Raises `TlsError`."""
    assert settings.tls_cert is not None  # noqa: S101 - our own invariant: called where TLS is on
    assert settings.tls_key is not None  # noqa: S101 - the settings hold both together
    certificate = _content("--tls-cert", settings.tls_cert)
    key = _content("--tls-key", settings.tls_key)
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise TlsError(f"--tls-cert {settings.tls_cert}: holds no certificate in PEM")
    if b"PRIVATE KEY-----" not in key:
        raise TlsError(f"--tls-key {settings.tls_key}: holds no private key in PEM")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings, settings.tls_cert, settings.tls_key, key)
    authority = None
    if settings.tls_client_ca is not None:
        authority = _load_authority(context, settings.tls_client_ca)
    return context, Pem(key, certificate, authority)


def _load_certificate(
    context: ssl.SSLContext, settings: Settings, cert_path: Path, key_path: Path, key: bytes
) -> None:
    """Load the certificate and its key, which is in `key` too. Raises `TlsError`."""
    secret = settings.tls_key_password
    password = None if secret is None else secret.get_secret_value()
    is_encrypted = b"ENCRYPTED" in key
    if is_encrypted and password is None:
        raise TlsError(f"--tls-key {key_path}: is encrypted; set UPRIGHT_TLS_KEY_PASSWORD")

    try:
        # Without a password OpenSSL would ask at the terminal.
        context.load_cert_chain(cert_path, key_path, lambda: password or "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"--tls-key {key_path}: is not the key of the certificate in {cert_path}"
        elif is_encrypted:
            message = f"--tls-key {key_path}: cannot be read; is UPRIGHT_TLS_KEY_PASSWORD right?"
        else:
            message = f"--tls-cert {cert_path} and --tls-key {key_path}: one of them is damaged PEM"
        raise TlsError(message) from error


def _load_authority(context: ssl.SSLContext, path: Path) -> bytes:
    """Ask clients for certificates of an authority, and return its PEM. Raises `TlsError`."""
    authority = _content("--tls-client-ca", path)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(
            f"--tls-client-ca {path}: holds no certificate in PEM that can be read"
        ) from error
    return authority


def _content(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{flag} {path}: {error.strerror}") from error
