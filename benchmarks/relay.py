"""Leads requests for Mixpanel's hosts to the local one, of programs that are not in Python."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import BinaryIO
from urllib.parse import urlsplit

import trustme

_BYTES = 1 << 18


@contextmanager
def relay(url: str, directory: Path) -> Iterator[dict[str, str]]:
    """A proxy that answers in the place of every host, by TLS as they do.

    Args:
        url: The local Mixpanel's.
        directory: Where the root of its certificates lies meanwhile.

    Yields:
        The variables that lead a program there, as curl, Go and others read them.
    """
    authority = trustme.CA()
    root = directory / "root.pem"
    authority.cert_pem.write_to_path(root)
    there = (str(urlsplit(url).hostname), urlsplit(url).port or 80)

    class Handler(BaseRequestHandler):
        """One connection: `CONNECT host:port`, then whatever is sent."""

        def handle(self) -> None:
            asked = self.request.makefile("rb")
            host = asked.readline().split()[1].decode().rpartition(":")[0]
            while asked.readline().strip():
                pass
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(host).configure_cert(context)
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            # Whoever ends a connection in the middle knows why.
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as theirs,
                socket.create_connection(there) as ours,
            ):
                ours.sendall(_request(theirs.makefile("rb")))
                while data := ours.recv(_BYTES):
                    theirs.sendall(data)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "HTTPS_PROXY": f"http://127.0.0.1:{server.server_address[1]}",
                "SSL_CERT_FILE": str(root),
            }
        finally:
            server.shutdown()


def _request(asked: BinaryIO) -> bytes:
    """A request without a body, the last one of its connection."""
    # Mixpanel's export answers with and without the slash that some connectors add.
    lines = [asked.readline().replace(b"/?", b"?", 1), b"Connection: close\r\n"]
    while (line := asked.readline()).strip():
        if not line.lower().startswith(b"connection:"):
            lines.append(line)
    return b"".join([*lines, b"\r\n"])
