"""Errors, independent of HTTP."""

from typing import Any


class RevokerError(Exception):
    """Base of all errors here; the message may be shown to the caller and contains no secret."""


class InvalidRequest(RevokerError):
    """A request that is malformed, incomplete or contradictory."""


class UnsupportedMediaType(RevokerError):
    """A body in a format that the endpoint does not support."""


class RequestTooLarge(RevokerError):
    """A body larger than the limit of the endpoint."""


class RequestTooSlow(RevokerError):
    """A body that did not arrive in time."""


class InvalidClient(RevokerError):
    """A caller without a valid credential."""


class TooManyFailures(RevokerError):
    """A peer that recently sent too many wrong credentials."""


class TooManyRequests(RevokerError):
    """A caller over its rate limit."""


class InsufficientScope(RevokerError):
    """A caller without the scope for this request."""


class AccessDenied(RevokerError):
    """A caller or user that may not use this object."""


class UnsupportedTokenType(RevokerError):
    """A genuine token of a kind that can't be revoked (RFC 7009 §2.2.1)."""


class InvalidGrant(RevokerError):
    """A refresh token that is invalid, used, expired, or another client's (RFC 6749 §5.2)."""


class InvalidScope(RevokerError):
    """A request for more scope than was granted."""


class UnsupportedGrantType(RevokerError):
    """A grant type that this service does not support."""


class InvalidToken(RevokerError):
    """A token that is not genuine or not supported; only ``/explain`` and the audit log say why.

    Attributes:
        why: The test that failed, in one word: ``malformed``, ``issuer``, ``key``, ``signature``, ``kind``,
            ``audience``, or the name of a claim.
    """

    def __init__(self, text: str, why: str = "malformed") -> None:
        super().__init__(text)
        self.why = why


class NoVerdict(RevokerError):
    """There is no verdict at present; the response is 503."""


class StoreUnavailable(NoVerdict):
    """The store did not answer in time, or refused; a write may or may not have been made."""


class Unconfirmed(StoreUnavailable):
    """A change was sent to the store and is not confirmed; repeating the request completes it.

    Attributes:
        reply: Of the store: the change is made, but too few replicas have confirmed it. None where no reply
            came: the change may or may not be made.
        about: What was to be changed, for the audit log, where the request does not contain it.
    """

    def __init__(self, text: str, reply: list[Any] | None = None) -> None:
        super().__init__(text)
        self.reply = reply
        self.about: dict[str, Any] = {}


class StoreRefused(NoVerdict):
    """The store answers, but its data cannot be used: a loss not yet accepted, clocks apart, no primary."""


class NotPrimary(StoreRefused):
    """The store's server is a replica, or is about to become one."""


class ReplyNotUnderstood(StoreRefused):
    """The store's server, or a proxy before it, gave a reply that its protocol does not allow."""

    def __init__(self) -> None:
        super().__init__("the store gave a reply that is not understood")


class PrimaryStale(StoreRefused):
    """The store's primary has not had enough replicas recently: another may have taken its place."""

    def __init__(self) -> None:
        super().__init__("the primary has not shown enough replicas of late")


class KeysUnavailable(NoVerdict):
    """An issuer's keys are unavailable, so no signature can be verified."""


class ConfigError(RevokerError):
    """Settings that are wrong, unknown or unsafe.

    Attributes:
        problems: One line for each; all of them at once.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
