"""Gists that were made before: a repeated instruction is not compressed again, whatever input follows it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from gistdemo.model.gist_cache import GistCache

BYTES = 64 * 2**20  # some hundreds of gists of the embedded models


class GistStore:
    """Gists of single rows by what they were made from; those longest unused leave first. For one thread.

    hits, misses: how often a gist was there, and was not. bytes: of the keys and values that are kept.
    """

    def __init__(self, most_bytes: int = BYTES):
        self.most_bytes = most_bytes
        self.hits = self.misses = self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[GistCache, Tensor | None]] = OrderedDict()

    def get(self, key: Hashable) -> GistCache | None:
        if key not in self._kept:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, gist: GistCache, slots: Tensor | None) -> None:
        """Keep a gist, and the slots it was made with: a key names them by their address, which stays theirs as long as they are held."""
        if key in self._kept or gist.bytes > self.most_bytes:
            return
        self._kept[key] = (gist, slots)
        self.bytes += gist.bytes
        while self.bytes > self.most_bytes:
            _, (oldest, _) = self._kept.popitem(last=False)
            self.bytes -= oldest.bytes

    def clear(self) -> None:
        """Forget all gists; the counts stay."""
        self._kept.clear()
        self.bytes = 0
