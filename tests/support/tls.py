"""TLS before a server that has none, as the bundled Valkey.

The certificate is for loopback, from an authority that lives as long as the proxy, or is shared by several.
"""

import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trustme

from support.proxy import CHUNK_BYTES, Ending, Proxy, Relay


class TlsProxy(Proxy):
    """A proxy that speaks TLS with clients that trust `ca_file`, and plain TCP with the server.

    Args:
        upstream_port: The server's.
        names: What its certificate is for.
        authority: Who signs it; by default its own.
    """

    def __init__(
        self,
        upstream_port: int,
        *,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
        authority: trustme.CA | None = None,
    ) -> None:
        super().__init__("127.0.0.1", upstream_port)
        authority = authority or trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self._context)
        self._directory = tempfile.TemporaryDirectory(prefix="sc-")
        self.ca_file = Path(self._directory.name, "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.url = f"rediss://127.0.0.1:{self.port}/0"

    def __exit__(self, *exc_info: object) -> None:
        self._directory.cleanup()
        super().__exit__(*exc_info)

    def _relay(self) -> Relay:
        return _TlsRelay(self._context)


class _TlsRelay(Relay):
    """Decrypts what the client sends, encrypts what the server answers."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def from_client(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            while plain := self._tls.read(CHUNK_BYTES):  # does the handshake as well
                self.to_upstream += plain
            self.ending = Ending.CLOSE  # the client said good-bye
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.ending = Ending.CLOSE  # it does not trust us, or does not speak TLS
        self.to_client += self._outgoing.read()

    def from_upstream(self, data: bytes) -> None:
        if data:  # nothing, where it was room to send that was waited for
            self._tls.write(data)
        self.to_client += self._outgoing.read()
