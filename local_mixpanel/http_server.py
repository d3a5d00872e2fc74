"""HTTP/1.1 on 127.0.0.1: sockets and framing, nothing about Mixpanel."""

import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from local_mixpanel.answers import Answer, text

# How often the accept loop looks whether it is to end: tests start and stop many servers.
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Request:
    """One request, read to its end."""

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes


Application = Callable[[Request], Answer | None]


class HttpServer(ThreadingHTTPServer):
    """Serves `application` in threads until it is closed; None as an answer sends nothing."""

    daemon_threads = True
    # The default of 5 refuses bursts that the real service takes.
    request_queue_size = 128

    def __init__(self, port: int, application: Application) -> None:
        self.application = application
        self._connections: set[socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        return f"http://127.0.0.1:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse DNS lookup, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def start(self) -> None:
        """Accept connections in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting and cut every open connection, idle ones too."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that `close` can end it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "LocalMixpanel"
    sys_version = ""
    # Headers and body are separate writes; Nagle's algorithm would hold the second back.
    disable_nagle_algorithm = True
    server: HttpServer

    def handle(self) -> None:
        # A client may leave at any time; that is no error of the server.
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit():
            self.close_connection = True
            self._send(text(411, "a body needs a Content-Length"))
            return
        body = self.rfile.read(int(length))
        url = urlsplit(self.path)
        query = parse_qsl(url.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, url.path, dict(query), headers, body)
        if len(request.query) < len(query):
            self._send(text(400, "a parameter is given twice"))
            return
        answer = self.server.application(request)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        is_chunked = answer.content_length is None
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(answer.content_length))
        self.end_headers()
        for part in filter(None, answer.parts):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
        if not answer.is_complete:
            self.close_connection = True
        elif is_chunked:
            self.wfile.write(b"0\r\n\r\n")
