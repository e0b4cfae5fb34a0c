"""What the endpoints use; made once in ``app``."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from revoker.api.admission import Admission
from revoker.api.authentication import Authentication
from revoker.api.session_services import SessionServices
from revoker.api.verdicts import Verdicts
from revoker.auth import Callers
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.consistency.clocks import Clocks
from revoker.store.revocations import Revocations
from revoker.store.store import Store
from revoker.tokens.verifying import Verifier


@dataclass(slots=True)
class Parts:
    """The parts of one process, by the names under which endpoints declare them; ``callers`` is replaced.

    Attributes:
        logout_audiences: By ``iss``, the audience of its logout tokens; other issuers can't send any.
        client_certificates: Whether callers may use one instead of a secret.
        sessions: None where this service holds none.
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
    sessions: SessionServices | None = None
    authentication: Authentication = field(init=False)

    def __post_init__(self) -> None:
        self.authentication = Authentication(
            lambda: self.callers, client_certificates=self.client_certificates
        )

    @property
    def revocations(self) -> Revocations:
        return self.store.revocations

    @property
    def clocks(self) -> Clocks:
        return self.store.clocks

    @property
    def revoked_key_ids(self) -> Callable[[Issuer], Collection[str]]:
        """Gives the ids (``kid``) of an issuer's keys that were revoked through the API."""
        keys = self.store.revocations.remembered.keys
        return lambda issuer: keys[issuer.name]
