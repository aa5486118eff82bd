"""What all tests share: the repository's root, a fence around the network, and their order."""

from __future__ import annotations

import os
import socket
from collections import Counter
from pathlib import Path

import pytest
import repository

# Read by the libraries when they are imported, so set before any test module is.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Plain modules of fixtures that tests also import from.
pytest.register_assert_rewrite("direction_doubles")

ROOT = repository.ROOT
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def _is_loopback(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in (None, "") or str(text).startswith(LOOPBACK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first: started last, one would keep one process busy when the others are done."""
    slow = Counter(i.path for i in items if any(map(i.get_closest_marker, ("browser", "slow"))))
    items.sort(key=lambda item: ("app_tabs" not in item.path.parts, -slow[item.path]))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Everything but the loopback device looks unplugged, as on a machine without a network."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def fenced_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise OSError(f"tests may not use the network: connect to {address}")
        return connect(self, address)

    def fenced_lookup(host, *args, **kwargs):
        if not _is_loopback(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests may not use the network: {host}")
        return lookup(host, *args, **kwargs)

    socket.socket.connect, socket.getaddrinfo = fenced_connect, fenced_lookup
    yield
    socket.socket.connect, socket.getaddrinfo = connect, lookup
