"""What the tests of backbones share: a backbone that must be refused, and the words it is refused with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gistdemo.errors import BackboneError
from gistdemo.model.backbone import load
from gistdemo.settings import Settings


def refusal(name: str | Path, settings: Settings, progress=None) -> str:
    """Load a backbone that must be refused; return the message, checked to be one for users."""
    with pytest.raises(BackboneError) as caught:
        load(str(name), settings, progress)
    text = str(caught.value)
    assert "Traceback" not in text and text.endswith(".") and len(text) < 900
    return text
