"""An extension of Flask.

revoker = Revoker(app)    # app.config: REVOKER_URL, REVOKER_SECRET, REVOKER_TIMEOUT

@app.get("/orders")
@revoker.token_required("orders:read")
def orders():
return {"user": g.token.sub}
"""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from flask import Flask, Response, current_app, g, jsonify, request

from revoker_client.bearer import Refused, token_in, verified_sync
from revoker_client.client import TIMEOUT_S, SyncRevokerClient

F = TypeVar("F", bound=Callable[..., Any])
_EXTENSION: Final = "revoker"


class Revoker:
    """Lets requests with an active token pass, where a view asks for one."""

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the configuration of an application.

        Raises:
            RuntimeError: ``REVOKER_URL`` or ``REVOKER_SECRET`` is missing.
        """
        missing = [name for name in ("REVOKER_URL", "REVOKER_SECRET") if not app.config.get(name)]
        if missing:
            raise RuntimeError(f"{' and '.join(missing)} must be set for revoker_client.flask")
        app.extensions[_EXTENSION] = SyncRevokerClient(
            app.config["REVOKER_URL"],
            app.config["REVOKER_SECRET"],
            timeout=app.config.get("REVOKER_TIMEOUT", TIMEOUT_S),
        )
        app.register_error_handler(Refused, _response_to)

    @property
    def client(self) -> SyncRevokerClient:
        """The client of the current application, to revoke with."""
        found: SyncRevokerClient = current_app.extensions[_EXTENSION]
        return found

    def token_required(self, *scopes: str) -> Callable[[F], F]:
        """Refuse requests without an active token that has all these scopes; ``g.token`` is the verdict."""

        def decorate(view: F) -> F:
            @functools.wraps(view)
            def checked(*args: Any, **kwargs: Any) -> Any:
                token = token_in(request.headers.getlist("Authorization"))
                g.token = verified_sync(self.client, token, scopes)
                return current_app.ensure_sync(view)(*args, **kwargs)

            return checked  # type: ignore[return-value]

        return decorate


def _response_to(refused: Refused) -> Response:
    response = jsonify(refused.body)
    response.status_code = refused.status
    response.headers.extend(refused.headers)
    return response
