"""A token as somebody pastes it: what it is, whatever the configuration.

No text here holds a value that names a person, a session or a token: only the ``typ`` is repeated.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from revoker.errors import ConfigError, InvalidToken, RevokerError
from revoker.models import ClaimNames
from revoker.tokens import refresh_tokens
from revoker.tokens.claims import first_readable, refuse_other_kinds
from revoker.tokens.parsing import UnverifiedToken, base64url_decoded, parse_token, strict_json_object


class UnusableToken(RevokerError):
    """A text that is no access token, whatever the configuration; the message says what it is.

    Attributes:
        kind: In one word, for programs.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_token(pasted: str) -> UnverifiedToken:
    """The token in a text that may hold ``Bearer``, quotes, white space and line breaks, too.

    Raises:
        ConfigError: there is nothing.
        UnusableToken: it is no access token.
    """
    text = pasted.strip("\ufeff \t\r\n\"'`,;")
    text = re.sub(r"(?i)^(?:authorization\s*:\s*)?(?:bearer|dpop)\s+", "", text)
    text = re.sub(r"[\s\"'`]+", "", text)
    if not text:
        raise ConfigError(["standard input: is empty; give a token, for example by a pipe"])
    if text.startswith(("{", "[")):
        raise UnusableToken("json", "JSON, not a token: give the value of access_token alone")
    if refresh_tokens.looks_like(text):
        raise UnusableToken(
            "refresh token", "a refresh token of Revoker itself: no issuer is configured for it"
        )
    if re.match(r"v[1-4]\.(?:local|public)\.", text):
        raise UnusableToken("paseto", "a PASETO: Revoker reads JWTs; have the provider issue these")
    _require_jws(text)
    try:
        token = parse_token(text)
    except InvalidToken as error:
        raise UnusableToken("malformed", f"a malformed JWT: {error}") from None
    _require_access_token(token)
    return token


def _require_jws(text: str) -> None:
    parts = text.split(".")
    try:
        header: dict[str, Any] = strict_json_object(base64url_decoded(parts[0]))
    except ValueError:
        if len(parts) == 3:
            return  # the parser names what is wrong with it
        raise UnusableToken(
            "opaque",
            "an opaque token, not a JWT: have the provider issue JWTs; often a request with the audience of "
            "an API does it",
        ) from None
    if len(parts) == 5 or "enc" in header:
        raise UnusableToken(
            "encrypted",
            "an encrypted token (JWE), which only its recipient reads: have the provider sign only",
        )
    if len(parts) == 1:
        raise UnusableToken("header only", "the header of a token only: copy all three parts")
    if len(parts) == 2:
        raise UnusableToken("no signature", "a token without its signature: copy all three parts")
    if str(header.get("alg")).lower() == "none":
        raise UnusableToken("unsigned", "an unsigned token (alg: none), which anybody can make")
    if len(parts) == 3 and not parts[2]:
        raise UnusableToken("no signature", "a token whose signature is missing: copy all three parts")


def _require_access_token(token: UnverifiedToken) -> None:
    """Refuse a token of a kind that no setting makes acceptable."""
    typ = (token.typ or "").lower().removeprefix("application/")
    if typ == "logout+jwt" or "events" in token.payload:
        raise UnusableToken("logout token", "a logout token or another event: give an access token")
    try:
        refuse_other_kinds(token, "", scope="", id_tokens=True)
    except InvalidToken as error:
        if "typ of" in str(error):
            raise UnusableToken(
                "other kind", f"not an access token: its header has the typ {printable(token.typ or '')}"
            ) from None
        kind = str(token.payload.get("typ", token.payload.get("token_use", ""))).lower()
        if kind in {"refresh", "offline"}:
            raise UnusableToken(
                "refresh token", "a refresh token: only its provider accepts it; give an access token"
            ) from None
        raise UnusableToken("other kind", "not an access token: it has claims of another kind") from None


def is_id_token(token: UnverifiedToken, scope: str) -> bool:
    """Whether only ``accept_id_tokens`` makes the token acceptable."""
    try:
        refuse_other_kinds(token, "", scope=scope, id_tokens=False)
    except InvalidToken:
        return True
    return False


def is_machine(payload: Mapping[str, Any], names: ClaimNames) -> bool:
    """Whether the token is of a program, without a user: its subject is its client."""
    sub, client = first_readable(names.sub, payload), first_readable(names.client_id, payload)
    username = payload.get("preferred_username")
    return (client is not None and sub in (client, f"{client}@clients")) or (
        type(username) is str and username.startswith("service-account-")
    )


def printable(text: str) -> str:
    """A value in quotes; characters that a terminal does not print are escaped, as TOML does it."""
    escaped = "".join(
        f"\\{char}"
        if char in '"\\'
        else char
        if char.isprintable()
        else f"\\u{ord(char):04x}"
        if ord(char) < 0x10000
        else f"\\U{ord(char):08x}"
        for char in text
    )
    return f'"{escaped}"'


def present(names: Sequence[str], payload: Mapping[str, Any]) -> str | None:
    """The claim that identifies something; None where the token has none of these."""
    return next((name for name in names if first_readable([name], payload)), None)
