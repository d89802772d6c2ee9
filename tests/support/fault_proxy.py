"""An HTTP proxy in front of a real server that fails on demand, before or after the server has done its work."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

REFUSE = "refuse"
"""502 without asking the server."""
RESET = "reset"
"""The server has answered; the connection is reset."""
STALL = "stall"
"""The server has answered; nothing comes."""
STATUS_502 = "502"
"""The server has answered; the proxy says 502 instead."""
STATUS_408 = "408"
"""The server has answered; the proxy says 408 instead, which SDKs like to repeat."""
CUT = "cut"
"""Half of the answer, then an orderly end."""
EMPTY = "empty"
"""``{}`` instead of the answer."""
HTML = "html"
"""A page of the proxy's, with status 200."""
DRIP = "drip"
"""The answer, a byte at a time."""
LATE = "late"
"""Nothing comes, and the request reaches the server only after ``LATE_SECONDS``."""
LATE_SECONDS = 5.0
STALL_SECONDS = 15.0


@dataclass
class FaultProxy:
    """A running proxy and the faults it still has to make."""

    url: str = ""
    target: str = ""
    faults: list[tuple[Callable[[str, str], bool], str]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, part: str, kind: str, times: int = 1) -> None:
        """The next ``times`` requests of this method with ``part`` in their path fail."""
        matches = lambda verb, path: verb == method and part in path  # noqa: E731
        self.faults += [(matches, kind)] * times

    def count(self, method: str, part: str) -> int:
        """How many such requests came by."""
        return sum(1 for verb, path in self.requests if verb == method and part in path)

    def take(self, method: str, path: str) -> str | None:
        with self.lock:
            self.requests.append((method, path))
            for index, (matches, kind) in enumerate(self.faults):
                if matches(method, path):
                    del self.faults[index]
                    return kind
        return None


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A proxy in front of ``target``, ended with all its threads."""
    proxy = FaultProxy(target=target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            fault = proxy.take(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == REFUSE:
                return self.answer(502, b"bad gateway")
            if fault == LATE:
                time.sleep(LATE_SECONDS)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            got = httpx.request(
                self.command, proxy.target + self.path, headers=headers | {"Accept-Encoding": "identity"}, content=body,
                timeout=120, trust_env=False,
            )  # fmt: skip
            self.misbehave(fault, got)

        def misbehave(self, fault: str | None, got: httpx.Response) -> None:
            if fault in (STALL, LATE):
                time.sleep(STALL_SECONDS)
                self.reset()
            elif fault == RESET:
                self.reset()
            elif fault in (STATUS_502, STATUS_408):
                self.answer(int(fault), b"try again")
            elif fault == EMPTY:
                self.answer(200, b"{}", "application/json")
            elif fault == HTML:
                self.answer(200, b"<html>log in first</html>", "text/html")
            elif fault == CUT:
                self.answer(got.status_code, got.content, got.headers.get("Content-Type"), send=len(got.content) // 2)
                self.close_connection = True
            elif fault == DRIP:
                self.answer(got.status_code, got.content, got.headers.get("Content-Type"), send=0)
                for byte in got.content:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.answer(got.status_code, got.content, got.headers.get("Content-Type"))

        def answer(self, status: int, body: bytes, kind: str | None = "text/plain", send: int | None = None) -> None:
            self.send_response(status)
            if kind:
                self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if send is None else body[:send])

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

    return Handler
