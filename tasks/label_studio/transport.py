"""HTTP with an end: a time limit on whole answers, where httpx has one on each piece of them.

A server or a proxy that sends a byte now and then never trips a read time-out. Knows httpx and nothing of Label Studio.
"""

import time
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

__all__ = ["client_with_deadlines"]


class _DeadlineStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, seconds: float, request: httpx.Request) -> None:
        self._stream, self._seconds, self._request = stream, seconds, request
        self._deadline = time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout(f"the answer took more than {self._seconds:g} s", request=self._request)
            yield piece

    def close(self) -> None:
        self._stream.close()


class _DeadlineTransport(httpx.BaseTransport):
    """The whole body of an answer arrives within the request's read time-out."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._transport.handle_request(request)
        seconds = request.extensions.get("timeout", {}).get("read")
        if seconds is not None and isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _DeadlineStream(response.stream, seconds, request)
        return response

    def close(self) -> None:
        self._transport.close()


def client_with_deadlines(url: str, seconds: float) -> httpx.Client:
    """A client for one server; proxies of the environment are used unless the server is on this machine.

    Args:
        url: The server's address.
        seconds: For connecting, and for each whole answer unless a request says otherwise.
    """
    # `mounts` for the environment's proxies are made by httpx itself and would go around the transport given here.
    direct = _is_loopback(url)
    client = httpx.Client(timeout=seconds, follow_redirects=True, trust_env=not direct)
    client._transport = _DeadlineTransport(client._transport)
    client._mounts = {
        pattern: transport and _DeadlineTransport(transport) for pattern, transport in client._mounts.items()
    }
    return client


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
