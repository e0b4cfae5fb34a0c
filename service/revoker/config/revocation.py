"""The section ``[revocation]``."""

from typing import Annotated, Literal

from pydantic import Field

from revoker.config.section import Section
from revoker.config.value_types import Seconds


class RevocationSettings(Section):
    """Applies to every issuer."""

    leeway: Annotated[int, Field(ge=0, le=300)] = 30
    """Seconds for which a token is still accepted after its `exp`."""

    max_token_lifetime: Seconds = 86400
    """Seconds; a token whose `exp - iat` is larger is never active."""

    store_outage: Literal["refuse", "allow"] = "refuse"
    """While the store is unreachable: no verdict (503), or as if nothing were revoked."""

    data_loss: Literal["cutoff", "refuse", "ignore"] = "cutoff"
    """When the store has lost data, and the running processes can't prove in `repair_seconds` that they have
    put all of it back: log everyone out (`cutoff`), give no verdict until `revoker store accept` (`refuse`),
    or only report it (`ignore`)."""

    repair_seconds: Annotated[float, Field(ge=0, le=60)] = 3
    """How long the running processes may take to repair a loss, so that nobody is logged out; no verdicts
    meanwhile. 0: `data_loss` applies at once."""
