"""What the endpoints work with; made once in ``app``."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.api.verdicts import Verdicts
from service.callers import Callers
from service.metrics import Metrics
from service.models import Issuer
from service.store.store import Store
from service.tokens.verifying import Verifier


@dataclass(slots=True)
class Parts:
    """The parts of one process; only ``callers`` is ever replaced."""

    callers: Callers
    issuers: Mapping[str, Issuer]
    verifier: Verifier
    store: Store
    verdicts: Verdicts
    metrics: Metrics
