"""How far a condition leads away from the full prompt's answer, as a value. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Divergence:
    """tokens: of the full prompt's answer. kl: nats per token, of the condition's distribution from the full prompt's. difference: of the
    token's log-probability, nats; their sum, over all known answers and conditions, is what recovery is made of. first: the first token
    where another one is the likeliest; None: nowhere.
    """

    checkpoint: str
    condition: str
    tokens: tuple[str, ...]
    kl: tuple[float, ...]
    difference: tuple[float, ...]
    first: int | None

    @property
    def mean_kl(self) -> float:
        return fmean(self.kl)
