"""What the endpoints work with; made once in ``app``."""

from collections.abc import Mapping
from dataclasses import dataclass

from revoker.api.admission import Admission
from revoker.api.verdicts import Verdicts
from revoker.auth import Callers
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.sessions import Sessions
from revoker.store.store import Store
from revoker.tokens.access_tokens import Minter
from revoker.tokens.refresh_tokens import RefreshTokens
from revoker.tokens.signing import SigningKeys
from revoker.tokens.verifying import Verifier


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
