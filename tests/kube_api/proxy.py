"""What kube-proxy does, by hand: connections to the address of a Service go on to one of the pods behind it."""

import contextlib
import itertools
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping

End = tuple[str, int]
"""Address and port."""


class Proxy:
    """Listens at addresses that it gives to a network device of this machine."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._listeners: dict[End, socket.socket] = {}
        self._behind: dict[End, list[End]] = {}
        self._turns: Iterator[int] = itertools.count()

    def listen(self, wanted: Mapping[End, list[End]]) -> None:
        """Listen at these ends and no others; a connection goes on to one of the list."""
        self._behind = dict(wanted)
        for end in self._listeners.keys() - wanted.keys():
            _shut(self._listeners.pop(end))
        for end in wanted.keys() - self._listeners.keys():
            subprocess.run(["ip", "addr", "replace", f"{end[0]}/32", "dev", self._device], check=True, capture_output=True)
            listener = socket.create_server(end)
            self._listeners[end] = listener
            threading.Thread(target=self._accept, args=(end, listener), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self.listen({})

    def _accept(self, end: End, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # it was shut
            behind = self._behind.get(end)
            try:
                there = socket.create_connection(behind[next(self._turns) % len(behind)], timeout=5) if behind else None
            except OSError:
                there = None
            if there is None:
                _shut(connection)
                continue
            there.settimeout(None)
            for one, other in ((connection, there), (there, connection)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
        return
    for end in (source, target):
        _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
