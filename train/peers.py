"""Are the other processes of a run still there?

Where one is gone, the others would wait for it in a sum over all devices: for ever, or until JAX
ends them with a C++ stack. So each process keeps a connection to the first one. The system closes
it when a process ends, however it ends; one that is done says so before.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

STATUS = 1
"""With which a process ends that another one has left alone."""
CONNECT_SECONDS = 20.0
TOKEN_BYTES = 16
GOODBYE, LOST = b"d", b"l"


class Peers:
    """The connections of one process; a thread watches them.

    Args:
      index: Of this process.
      sockets: To other processes, by their index.
    """

    def __init__(self, index: int, sockets: dict[int, socket.socket]) -> None:
        self.index, self.sockets = index, sockets
        self.place: dict[str, Any] = {}
        """Where the first process listens."""
        self.before_the_end: Callable[[], None] = lambda: None
        """Called when another process is gone, before this one ends."""
        self._is_done = False

    @classmethod
    def listen(cls, count: int) -> "Peers":
        """The connections of the first process, which the others make."""
        peers, token = cls(0, {}), secrets.token_bytes(TOKEN_BYTES)
        server = socket.create_server(("", 0), backlog=count)
        peers.place = {
            "host": socket.gethostname(),
            "port": server.getsockname()[1],
            "token": token.hex(),
        }
        peers._start(lambda: peers._accept(server, count, token))
        return peers

    @classmethod
    def connect(cls, index: int, place: dict[str, Any], host: str | None = None) -> "Peers":
        """The connection of another process.

        Args:
          index: Of this process.
          place: Of the first process, as it tells.
          host: Name of the first process's machine, where its own is not known here.
        """
        peers = cls(index, {})
        hosts = [name for name in (host, place["host"], "localhost") if name]
        for name in hosts:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((name, place["port"]), CONNECT_SECONDS)
                connection.settimeout(None)
                connection.sendall(bytes.fromhex(place["token"]) + index.to_bytes(4, "big"))
                peers.sockets[0] = connection
                break
        peers._start(lambda: None)
        return peers

    def say_goodbye(self) -> None:
        """Tells the others that this process has done its part."""
        self._is_done = True
        for connection in list(self.sockets.values()):
            with contextlib.suppress(OSError):
                connection.sendall(GOODBYE)

    def wait_for_news(self, seconds: float) -> None:
        """Returns if nobody is found to be gone in so many seconds; else the process ends."""
        time.sleep(seconds)

    def _start(self, prepare: Callable[[], None]) -> None:
        def watch() -> None:
            prepare()
            self._watch()

        threading.Thread(target=watch, name="peers", daemon=True).start()

    def _accept(self, server: socket.socket, count: int, token: bytes) -> None:
        """Takes the connections of all others; strangers are turned away."""
        server.settimeout(CONNECT_SECONDS)
        with server, contextlib.suppress(OSError):
            while len(self.sockets) < count - 1:
                connection, _ = server.accept()
                connection.settimeout(CONNECT_SECONDS)
                hello = _receive(connection, TOKEN_BYTES + 4)
                if hello[:TOKEN_BYTES] == token:
                    connection.settimeout(None)
                    self.sockets[int.from_bytes(hello[TOKEN_BYTES:], "big")] = connection
                else:
                    connection.close()

    def _watch(self) -> None:
        """Returns when all others have said goodbye; ends the process when one is gone."""
        with selectors.DefaultSelector() as selector:
            for index, connection in self.sockets.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    if (word := _receive(key.fileobj, 1)) != GOODBYE:
                        number = _receive(key.fileobj, 4) if word == LOST else b""
                        self._end(int.from_bytes(number, "big") if number else key.data)

    def _end(self, lost: int) -> None:
        """Says which process is gone, to the others too, and ends this one."""
        if self._is_done:
            return
        for connection in self.sockets.values():
            with contextlib.suppress(OSError):
                connection.sendall(LOST + lost.to_bytes(4, "big"))
        with contextlib.suppress(OSError, ValueError):
            self.before_the_end()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(
                f"\nError: Process {lost} is gone (it was ended, or failed: see what it said "
                f"last), and process {self.index} cannot go on alone. Start all processes again "
                "with the same commands: the run resumes from its newest saved state.\n"
            )
            sys.stderr.flush()
        os._exit(STATUS)


def _receive(connection: Any, size: int) -> bytes:
    """So many bytes, fewer if the connection ends before."""
    received = b""
    with contextlib.suppress(OSError):
        while len(received) < size and (part := connection.recv(size - len(received))):
            received += part
    return received
