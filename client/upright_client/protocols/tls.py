"""TLS around another protocol. Imported only for `https://`: other addresses need none of it."""

import ssl
from collections.abc import Callable

from upright_client.errors import ProtocolError
from upright_client.protocols.http11 import Http11Protocol
from upright_client.protocols.protocol import ConnectionProtocol, Request

READ_SIZE = 16_384  # bytes that are decrypted at once


class TlsProtocol:
    """A connection's protocol, spoken through TLS. It is open when both are."""

    def __init__(self, inner: ConnectionProtocol, context: ssl.SSLContext, host: str) -> None:
        self.is_open = False
        self.is_closing = False
        self.replies = inner.replies
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._handshake_done = False

    def hello(self) -> bytes:
        """Return what opens TLS; what opens the inner protocol follows when TLS is open."""
        return self.receive(b"")

    def request(self, request: Request) -> bytes:
        """Return the encrypted bytes of a request. Raises `ProtocolError` once TLS has ended."""
        self._write(self._inner.request(request))
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return what must be sent back at once.

        Raises `ProtocolError`, also for a certificate that is not trusted.
        """
        self._incoming.write(data)
        try:
            if not self._handshake_done:
                self._tls.do_handshake()
                self._handshake_done = True
                self._write(self._inner.hello())

            while plaintext := self._tls.read(READ_SIZE):
                self._write(self._inner.receive(plaintext))
            self._end()
        except ssl.SSLWantReadError:
            self.is_closing = self._inner.is_closing
        except ssl.SSLZeroReturnError:
            self._end()
        except ssl.SSLError as error:
            raise ProtocolError(f"TLS failed: {error}") from error

        self.is_open = self._handshake_done and self._inner.is_open
        return self._outgoing.read()

    def receive_end(self) -> None:
        """Take in that the connection ended: without TLS's own end, an answer may be cut short."""
        self.is_closing = True
        if not self._inner.is_open:  # what has come of a refusal is worth telling
            self._inner.receive_end()

    def _end(self) -> None:
        """Take in TLS's own end: what came before it is whole."""
        self._inner.receive_end()
        self.is_closing = True

    def _write(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise ProtocolError(f"TLS failed: {error}") from error


def tls_wrapper(
    host: str, context: ssl.SSLContext | None
) -> Callable[[ConnectionProtocol], ConnectionProtocol]:
    """Return a function that puts TLS around a protocol.

    Without a context the system's authorities are trusted. Raises `TypeError` for what is no
    context, `ValueError` for a name that no certificate can have.
    """
    if context is None:
        context = ssl.create_default_context()
    elif not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context is an ssl.SSLContext, not {context!r}")
    checked_context = context

    TlsProtocol(Http11Protocol("", None), checked_context, host)  # raises for an impossible name
    return lambda inner: TlsProtocol(inner, checked_context, host)
