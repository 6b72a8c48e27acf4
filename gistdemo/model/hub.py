"""Fetching a backbone from a model hub, and what to tell a user when that fails.

    fetch(name, report)  -> the folder in the hub library's own cache

Says only that the folder was fetched: whether it holds a model that can be used is for `pretrained` and `backbone` to check.
Takes configuration, safetensors and tokenizer, never code and never weights in other formats.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import tqdm
from huggingface_hub import errors as hub_errors

from gistdemo.errors import BackboneError, first_line
from gistdemo.model.fetching import PASS_A_PATH, Progress, is_disk_full

HUB_FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
HUB_NOT = ["*/*", "consolidated*"]  # second copies of the weights in other formats


def fetch(name: str, report: Progress) -> Path:
    """Download a model from the hub into its usual cache. HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured by the library."""
    report(f"Looking for {name} on the model hub", 0.0)
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=HUB_FILES, ignore_patterns=HUB_NOT, tqdm_class=_hub_bar(name, report)
        )
    except hub_errors.HFValidationError as error:
        raise BackboneError(f"'{name}' is not a valid hub id ({first_line(error)}). Use 'org/name'. {PASS_A_PATH}") from error
    except (OSError, RuntimeError, httpx2.HTTPError) as error:  # RuntimeError: the hub's transfer library
        raise BackboneError(f"Hub model '{name}' {_hub_problem(error)} {PASS_A_PATH}") from error
    report(f"{name} is in the local cache", 1.0)
    return Path(folder)


def _hub_problem(error: BaseException) -> str:
    """What went wrong at the hub and what to do, after the words "Hub model 'org/name'"."""
    if isinstance(error, hub_errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the library wraps why it had to look into its cache
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub_errors.GatedRepoError):
        return f"is gated (HTTP {status}): accept its licence on its page, then run 'hf auth login' or set HF_TOKEN."
    if status == 401:  # the hub's answer to strangers, for private models and for names that do not exist
        return "was not found, or is not open to you (HTTP 401): check the spelling, or run 'hf auth login' or set HF_TOKEN."
    if status == 404:
        return "was not found (HTTP 404): no such model, or it is private. Check the spelling, or run 'hf auth login'."
    if status == 403:
        return "is not open to you (HTTP 403): run 'hf auth login' or set HF_TOKEN."
    if status is not None:
        return f"could not be fetched: the hub answered HTTP {status}. Try again later."
    if is_disk_full(error):
        return f"could not be saved: the disk of '{huggingface_hub.constants.HF_HUB_CACHE}' is full. Free some space, or set HF_HOME."
    if huggingface_hub.is_offline_mode() or isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "is not complete in the local cache, and HF_HUB_OFFLINE forbids fetching it. Unset HF_HUB_OFFLINE."
    if isinstance(error, (httpx2.HTTPError, hub_errors.LocalEntryNotFoundError, ConnectionError)):
        return f"could not be fetched: no connection to the model hub ({first_line(error)}). Check the network."
    return f"could not be fetched ({first_line(error)}). Try again."


def _hub_bar(name: str, report: Progress) -> type:
    """A tqdm class that reports instead of drawing."""

    class HubBar(tqdm.tqdm):  # type: ignore[misc]  # tqdm comes without types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub client names its bars for its own switch
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **kwargs: Any) -> bool:
            if self.unit == "B" and self.total:
                report(f"Downloading {name}: {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB", 0.99 * self.n / self.total)
            return True

    return HubBar
