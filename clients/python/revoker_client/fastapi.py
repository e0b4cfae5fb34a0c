"""A dependency of FastAPI.

active = ActiveToken(RevokerClient(url, secret))

@app.get("/orders")
async def orders(token: Annotated[Introspection, Depends(active)]) -> ...:
"""

from collections.abc import Collection

from fastapi import HTTPException, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase

from revoker_client.bearer import Refused, token_in, verified
from revoker_client.client import RevokerClient
from revoker_client.results import Introspection


class ActiveToken(SecurityBase):
    """Gives a path operation the verdict on an active token; answers 401, 403 or 503 otherwise.

    The OpenAPI document of the application shows it as a bearer token.

    Args:
        client: Asks Revoker.
        scopes: Those that a token must have, all of them.
    """

    def __init__(self, client: RevokerClient, *, scopes: Collection[str] = ()) -> None:
        self.model = HTTPBearerModel(description="An access token that is not revoked.")
        self.scheme_name = "bearer"
        self._client = client
        self._scopes = tuple(scopes)

    async def __call__(self, request: Request) -> Introspection:
        """The verdict; FastAPI calls this for every request."""
        try:
            return await verified(
                self._client, token_in(request.headers.getlist("authorization")), self._scopes
            )
        except Refused as refused:
            raise HTTPException(refused.status, refused.description, refused.headers) from refused
