"""Token ids to text, while they come."""

from __future__ import annotations

from typing import Any


class TextStream:
    """Turns a growing list of ids into text pieces that never split a character. Joined pieces and the rest = the text of all ids."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # ids before it are final and no longer needed as context
        self._read = 0  # ids before it have been given out

    def push(self, token_id: int) -> str:
        """Add an id; return the characters that became certain."""
        self._ids.append(token_id)
        rest = self.rest()
        if not rest or rest.endswith("\ufffd"):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return rest

    def rest(self) -> str:
        """What is held back; an unfinished character is U+FFFD."""
        known, whole = self._decode(self._ids[self._window : self._read]), self._decode(self._ids[self._window :])
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""
