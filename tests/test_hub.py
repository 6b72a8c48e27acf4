"""Backbones from a hub: each way to fail is told apart, and a download moves the bar. Nothing here reaches a hub."""

from __future__ import annotations

import errno

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.utils import hf_raise_for_status
from refusals import refusal
from toy import save_toy

from gistdemo.model.backbone import load


def answer(status: int, **headers: str):
    """A stand-in for snapshot_download whose hub answers with a status; the library itself chooses the error."""

    def snapshot_download(name: str, **_):
        request = httpx2.Request("GET", f"https://hub.invalid/api/models/{name}/revision/main")
        hf_raise_for_status(httpx2.Response(status, headers=headers, request=request))

    return snapshot_download


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "is gated (HTTP 403): accept its licence"),
        (401, {"X-Error-Code": "GatedRepo"}, "is gated (HTTP 401): accept its licence"),
        (401, {}, "was not found, or is not open to you (HTTP 401)"),
        (404, {"X-Error-Code": "RepoNotFound"}, "was not found (HTTP 404)"),
        (404, {}, "was not found (HTTP 404)"),
        (403, {}, "is not open to you (HTTP 403)"),
        (503, {}, "the hub answered HTTP 503"),
    ],
)
def test_the_hub_refusing_is_told_apart(status, headers, words, settings, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer(status, **headers))
    text = refusal("org/name", settings)
    assert words in text and "pass the path of its folder" in text


def test_offline_mode_is_named(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids fetching it" in refusal("org/not-in-the-cache", settings)


def test_no_network_is_named(settings, monkeypatch):
    def snapshot_download(name: str, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here") from httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert "no connection to the model hub (Name or service not known)" in refusal("org/name", settings)


def test_a_full_disk_while_fetching_from_the_hub_is_named(settings, monkeypatch):
    def snapshot_download(name: str, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert "is full" in refusal("org/name", settings)


def test_a_hub_model_loads_and_its_download_moves_the_bar(tmp_path, settings, monkeypatch):
    def snapshot_download(name: str, *, tqdm_class, allow_patterns, ignore_patterns):
        with tqdm_class(desc="bytes", total=0, unit="B", unit_scale=True, disable=False, name="hub") as bar:
            bar.total = 2_000_000
            for _ in range(2):
                bar.update(1_000_000)
                bar.refresh()
        return str(save_toy(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    seen = []
    backbone = load("org/name", settings, lambda *step: seen.append(step))
    assert backbone.name == "org/name" and backbone.path == tmp_path / "snapshot"
    assert "Downloading org/name: 1 of 2 MB" in [message for message, _ in seen]
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
