"""A TCP proxy before a server, which can refuse a connection or have something happen at it."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"


class TcpProxy:
    """Passes connections on to a server on this machine, between `with` and its end."""

    def __init__(self, port: int) -> None:
        """Stand before `port`; `self.port` is where to connect instead."""
        self._server_port = port
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        """How many there have been since the last `at`."""
        self._at = 0
        self._happens: Callable[[], bool] = lambda: True
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def at(self, number: int, happens: Callable[[], bool]) -> None:
        """Call `happens` before the `number`-th connection from now on; False refuses it."""
        self.connections, self._at, self._happens = 0, number, happens

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone would not wake up who waits for connections.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.connections == self._at and not self._happens():
                client.close()
                continue
            server = socket.create_connection((_HOST, self._server_port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Until either side ends; each of the two directions closes what it reads from."""
    with source, suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
