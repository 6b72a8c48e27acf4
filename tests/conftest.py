"""Fixtures of the whole suite. Nothing here needs weights, and nothing may reach the network.

The environment is set before any test module imports transformers, which reads it once, on import.
"""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    GRADIO_ANALYTICS_ENABLED="False",
)

import ipaddress
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import ADAPTERS, Lab, add_random_adapter

from gistdemo.prompts import CHATML, PLAIN
from gistdemo.settings import Settings

# Files that take more than a few seconds: they train, generate much, or start processes. `make test-fast` leaves them out.
SLOW = (
    "test_adapter_files",
    "test_archive",
    "test_cli",
    "test_conversion",
    "test_embedded",
    "test_evaluate",
    "test_evaluate_tab",
    "test_families",
    "test_jobs",
    "test_no_leak",
    "test_padding",
    "test_sliding_window",
    "test_training",
    "test_training_modes",
    "test_training_run",
    "test_training_whole",
    "test_two_phases",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    if gone := [name for name in SLOW if not (Path(__file__).parent / f"{name}.py").is_file()]:
        raise pytest.UsageError(f"tests/conftest.py calls {', '.join(gone)} slow, but there is no such file. Take it off the list.")
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")


class NetworkBlocked(OSError):
    """A test tried to reach another machine."""


def _is_loopback(address: object) -> bool:
    """True for local sockets and loopback addresses; a name other than localhost would need a resolver, so it is not."""
    if not isinstance(address, tuple):
        return True  # AF_UNIX: a path
    host = str(address[0]).partition("%")[0]
    if host in ("localhost", ""):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, name look-ups included."""
    patch = pytest.MonkeyPatch()
    resolve = socket.getaddrinfo

    def guarded(method):
        def call(self, address, *rest):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address):
                raise NetworkBlocked(f"tests must not reach {address}")
            return method(self, address, *rest)

        return call

    def local_names_only(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_loopback((name,)):
            raise NetworkBlocked(f"tests must not look up {name}")
        return resolve(host, *args, **kwargs)

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    patch.setattr(socket, "getaddrinfo", local_names_only)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation of its own: empty cache, data and shipped checkpoints."""
    return Settings(cache_dir=tmp_path / "cache", data_dir=tmp_path / "data", shipped_checkpoints_dir=tmp_path / "shipped")


@pytest.fixture(scope="session", params=[CHATML, PLAIN], ids=lambda template: template.name)
def template(request):
    """Both templates, one after the other."""
    return request.param


@pytest.fixture
def lab(template) -> Lab:
    """A toy backbone with tokenizer, encoder, engine and gist vectors, for each template."""
    return Lab(template)


@pytest.fixture(scope="session")
def adapted(template) -> Lab:
    """The same with two random adapters attached (`lab.ADAPTERS`), whose effect is not zero. Shared: tests only read it."""
    made = Lab(template)
    for seed, name in enumerate(ADAPTERS):
        add_random_adapter(made.model, name, seed)
    return made
