"""The identity provider by which people sign in: OpenID Connect, authorization code with PKCE.

Authlib makes the requests of OAuth. The ID token is verified as every other token of the issuer: by the keys
of its entry in the settings. Nothing but the ID token says who somebody is.
"""

import hmac
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.client import OAuth2Client

from revoker.config.console import ConsoleSettings
from revoker.errors import InvalidToken, KeysUnavailable
from revoker.models import LATEST_DATE, Claims, Issuer
from revoker.store.consistency.clocks import Clocks
from revoker.tokens.claims import revocable_claims
from revoker.tokens.verifying import GenuineToken, Verifier

TIMEOUT_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 256 * 1024
_OLDEST_S: Final = 600
"""Of an ID token, which was made for this very sign-in."""

MAX_SUB: Final = 255
"""OpenID Connect Core §2; it becomes part of a name in the audit log."""

_TYPES: Final = frozenset((None, "jwt", "id_token+jwt"))
_NOT_OF_ID_TOKENS: Final = frozenset(("events", "token_introspection", "status_list"))


class SignInFailed(Exception):
    """A sign-in that did not succeed; the message is for the page and holds no secret.

    Attributes:
        again: Whether trying again later may help: the provider did not answer.
    """

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


class _Client(OAuth2Client):  # type: ignore[misc]  # Authlib has no types
    """Authlib's client, over the HTTP client of this service."""

    SESSION_REQUEST_PARAMS = ()

    async def _fetch_token(
        self, url: str, body: str = "", headers: Any = None, auth: ClientAuth | None = None, **_: Any
    ) -> dict[str, Any]:
        if auth is not None:
            url, headers, body = auth.prepare("POST", url, dict(headers or {}), body)
        async with self.session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            raw = b""
            async for part in response.content.iter_any():
                raw += part
                if len(raw) > _MAX_ANSWER_BYTES:
                    raise SignInFailed("The identity provider's answer is too long.")
            if response.status != 200:
                raise SignInFailed(
                    f"The identity provider refused the sign-in (status {response.status}).",
                    again=response.status >= 500,
                )
        try:
            answer: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raise SignInFailed("The identity provider's answer cannot be read.") from None
        return answer


class Provider:
    """Sends people to the provider, and finds out who came back."""

    def __init__(
        self,
        settings: ConsoleSettings,
        issuer: Issuer,
        verifier: Verifier,
        *,
        revoked_key_ids: Callable[[Issuer], Collection[str]],
        clocks: Clocks,
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._revoked_key_ids = revoked_key_ids
        self._clocks = clocks
        self._http: aiohttp.ClientSession | None = None
        self.issuer: Final = issuer
        self.redirect_uri: Final = f"{settings.url}/console/callback"

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes to sign in."""
        url, _ = self._client().create_authorization_url(
            self._settings.authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
        )
        return str(url)

    async def id_token(self, code: str, *, nonce: str, verifier: str) -> GenuineToken:
        """The verified ID token for a code.

        Raises:
            SignInFailed: the provider did not give one, or not one for this sign-in.
        """
        try:
            answer = await self._client(self._secret()).fetch_token(
                self._settings.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=verifier,
            )
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise SignInFailed("The identity provider did not answer.", again=True) from None
        except AuthlibBaseError:
            raise SignInFailed("The identity provider refused the sign-in.") from None
        text = answer.get("id_token")
        if type(text) is not str:
            raise SignInFailed("The identity provider gave no ID token.")
        try:
            genuine = await self._verifier.verify_origin(text)
            self._check(genuine, nonce)
        except InvalidToken as error:
            raise SignInFailed(f"The ID token was refused: {error}.") from None
        except KeysUnavailable as error:
            raise SignInFailed(f"The ID token cannot be verified: {error}.", again=True) from None
        return genuine

    def claims(self, genuine: GenuineToken) -> Claims:
        """The claims of an ID token on which cutoffs and blocks depend; its own ``jti`` is no matter."""
        names = genuine.issuer.claim_names
        revocable = () if names is None else revocable_claims(names.revocable, genuine.payload)
        claims = genuine.claims
        return msgspec.structs.replace(
            claims, client_id=claims.client_id or claims.azp or self._settings.client_id, revocable=revocable
        )

    def _secret(self) -> str | None:
        """The client's secret, which may have been replaced; None: the client has none."""
        path = self._settings.client_secret_file
        if not path:
            return None
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise SignInFailed("The file console.client_secret_file cannot be read.", again=True) from None

    def _client(self, client_secret: str | None = None) -> _Client:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return _Client(
            self._http,
            client_id=self._settings.client_id,
            client_secret=client_secret,
            scope=self._settings.scope,
            redirect_uri=self.redirect_uri,
            code_challenge_method="S256",
        )

    def _check(self, genuine: GenuineToken, nonce: str) -> None:
        """Refuse a genuine token that is not the ID token of this sign-in (OpenID Connect Core §3.1.3.7)."""
        payload, issuer, client = genuine.payload, genuine.issuer, self._settings.client_id
        if issuer.name != self.issuer.name:
            raise InvalidToken("it is of another issuer", "issuer")
        if genuine.claims.kid in issuer.revoked_kids or genuine.claims.kid in self._revoked_key_ids(issuer):
            raise InvalidToken("its key was revoked", "key")
        typ = None if genuine.typ is None else genuine.typ.lower().removeprefix("application/")
        if typ not in _TYPES or not _NOT_OF_ID_TOKENS.isdisjoint(payload):
            raise InvalidToken("it is another kind of token", "kind")
        audience = payload.get("aud")
        audiences = audience if type(audience) is list else [audience]
        if client not in audiences or (len(audiences) > 1 and payload.get("azp") != client):
            raise InvalidToken("it is meant for another client", "audience")
        if payload.get("azp") not in {None, client}:
            raise InvalidToken("it is meant for another client", "audience")
        sent = payload.get("nonce")
        if type(sent) is not str or not hmac.compare_digest(sent.encode(), nonce.encode()):
            raise InvalidToken("it is of another sign-in", "nonce")
        self._check_dates(payload, issuer)
        if not genuine.claims.sub or len(genuine.claims.sub) > MAX_SUB:
            raise InvalidToken("its sub is missing or too long", "sub")

    def _check_dates(self, payload: Mapping[str, Any], issuer: Issuer) -> None:
        own_now, store_ms = self._clocks.now(), self._clocks.store_ms
        store_now = own_now if store_ms is None else store_ms / 1000
        iat, exp = payload.get("iat"), payload.get("exp")
        if type(iat) not in {int, float} or type(exp) not in {int, float}:
            raise InvalidToken("it has no dates", "iat")
        assert isinstance(iat, int | float) and isinstance(exp, int | float)  # noqa: S101, PT018  # as checked
        if not 0 <= iat <= LATEST_DATE or exp <= max(store_now, own_now) - issuer.leeway:
            raise InvalidToken("it has expired", "exp")
        # Whether it is dated ahead is judged with the cutoffs, which the store's clock dates.
        if iat < store_now - _OLDEST_S - issuer.iat_backdated:
            raise InvalidToken("it was not made for this sign-in", "iat")
