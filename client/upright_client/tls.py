"""TLS around a wire: the network's bytes in and out, the inner wire's inside. No input or output here either.

Imported only for `https://`: a loop on the service's own machine needs none of it.
"""

import ssl

from upright_client.wire import HttpWire, StreamWire, WireError

CHUNK = 65_536  # bytes that are decrypted at once


class TlsWire:
    """A connection's protocol, spoken through TLS. It is open when both are."""

    def __init__(self, inner: HttpWire | StreamWire, context: ssl.SSLContext, host: str) -> None:
        self.opened = False
        self.closing = False
        self.replies = inner.replies
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._agreed = False

    def hello(self) -> bytes:
        """Return what opens TLS; what opens the inner wire follows when TLS is open."""
        return self.receive(b"")

    def request(self, body: bytes) -> bytes:
        """Return the encrypted bytes that ask about one state."""
        self._tls.write(self._inner.request(body))
        return self._outgoing.read()

    def other(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return an encrypted request to another door."""
        self._tls.write(self._inner.other(method, path, body))
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return what must be sent back at once. Raises `WireError`, also for a certificate that is not trusted."""
        self._incoming.write(data)
        try:
            if not self._agreed:
                self._tls.do_handshake()
                self._agreed = True
                self._send(self._inner.hello())
            while received := self._tls.read(CHUNK):
                self._send(self._inner.receive(received))
            self.closing = True
        except ssl.SSLWantReadError:
            self.closing = self._inner.closing
        except ssl.SSLZeroReturnError:
            self.closing = True
        except ssl.SSLError as error:
            raise WireError(f"TLS failed: {error}") from error
        self.opened = self._agreed and self._inner.opened
        return self._outgoing.read()

    def _send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
