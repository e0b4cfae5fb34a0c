"""What the endpoints work with; made once in ``app``."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.api.admission import Admission
from service.api.verdicts import Verdicts
from service.callers import Callers
from service.metrics import Metrics
from service.models import Issuer
from service.store.sessions import Sessions
from service.store.store import Store
from service.tokens.access import Minter
from service.tokens.refresh import RefreshTokens
from service.tokens.signing import SigningKeys
from service.tokens.verifying import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What keeping sessions here takes; ``idle_timeout`` in seconds."""

    issuer: Issuer
    audiences: frozenset[str]
    idle_timeout: int
    sessions: Sessions
    minter: Minter
    refresh_tokens: RefreshTokens
    signing_keys: SigningKeys


@dataclass(slots=True)
class Parts:
    """The parts of one process; only ``callers`` is ever replaced.

    Attributes:
        logout_audiences: By ``iss``, for whom logout tokens must be; other issuers can't send any.
        client_certificates: Whether callers may show one instead of a secret.
    """

    admission: Admission
    callers: Callers
    issuers: Mapping[str, Issuer]
    verifier: Verifier
    store: Store
    verdicts: Verdicts
    metrics: Metrics
    logout_audiences: Mapping[str, str]
    client_certificates: bool
    kept: Kept | None = None
