"""What can go wrong, in the words of the domain; knows no HTTP."""

from typing import Any


class RevokerError(Exception):
    """Every error below; the message is fit for the caller's eyes and holds no secret."""


class InvalidRequest(RevokerError):
    """A request that is malformed, incomplete or contradicts itself."""


class UnsupportedMediaType(RevokerError):
    """A body in a format that the endpoint does not read."""


class RequestTooLarge(RevokerError):
    """A body beyond the limit of the endpoint."""


class RequestTooSlow(RevokerError):
    """A body that did not come in time."""


class InvalidClient(RevokerError):
    """A caller without a credential, or with a wrong one."""


class TooManyFailures(RevokerError):
    """A peer that has shown too many wrong credentials lately."""


class TooManyRequests(RevokerError):
    """A caller that asks more often than it may."""


class InsufficientScope(RevokerError):
    """A caller that is known, but not allowed this."""


class AccessDenied(RevokerError):
    """A caller or user that is barred from this very object."""


class UnsupportedTokenType(RevokerError):
    """A genuine token of a kind that can't be revoked (RFC 7009 §2.2.1)."""


class InvalidGrant(RevokerError):
    """A refresh token that gives nothing: wrong, spent, ended, or somebody else's."""


class InvalidScope(RevokerError):
    """More scope than was granted."""


class UnsupportedGrantType(RevokerError):
    """A grant that this service does not know."""


class InvalidToken(RevokerError):
    """A token that is not genuine, or not of a kind that counts here; never says more to callers."""


class NoVerdict(RevokerError):
    """It can't be told now; the answer is 503, neither yes nor no."""


class StoreUnavailable(NoVerdict):
    """The store did not answer in time, or refused; a write may or may not have happened."""


class Unconfirmed(StoreUnavailable):
    """A change was sent to the store and is not confirmed; repeating the request completes it.

    Attributes:
        reply: What the store answered: the change is made, but too few replicas have said that they have
            it. None where no answer came: it may or may not be made.
        about: What was to be changed, for the audit log, where the request does not say it.
    """

    def __init__(self, text: str, reply: list[Any] | None = None) -> None:
        super().__init__(text)
        self.reply = reply
        self.about: dict[str, Any] = {}


class StoreRefused(NoVerdict):
    """The store answers but may not be believed: data lost and not accepted, clocks apart, no primary."""


class NotPrimary(StoreRefused):
    """The store's server is a replica, or is about to be one."""


class ReplyNotUnderstood(StoreRefused):
    """The store's server, or a proxy before it, gave a reply of another form than its protocol has."""

    def __init__(self, text: str = "the store gave a reply that is not understood") -> None:
        super().__init__(text)


class PrimaryStale(StoreRefused):
    """The store's primary has not shown enough replicas of late: another may have taken its place."""

    def __init__(self) -> None:
        super().__init__("the primary has not shown enough replicas of late")


class KeysUnavailable(NoVerdict):
    """An issuer's keys could not be had, so a signature can't be judged."""


class ConfigError(RevokerError):
    """Settings that are wrong, unknown or unsafe.

    Attributes:
        problems: One line for each fault; all of them at once.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
