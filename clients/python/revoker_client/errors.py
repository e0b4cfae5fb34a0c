"""What can go wrong when Revoker is asked. None of it means that a token is inactive."""


class RevokerError(Exception):
    """Any failure of a call."""


class RevokerUnavailable(RevokerError):
    """There is no verdict, and nothing is known to be stored: try again later.

    Raised for 429, 5xx and redirects, time-outs, broken connections, and answers that cannot be read.

    Attributes:
        retry_after: Seconds to wait, as the service asked; None: it did not say.
    """

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RevokerDenied(RevokerError):
    """The service refused this caller: 401, its secret is wrong; 403, it may not do this.

    Attributes:
        status: 401 or 403.
        error: The OAuth error code.
    """

    def __init__(self, message: str, status: int, error: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


class RevokerRejected(RevokerError):
    """The request itself is wrong, and repeating it is of no use.

    Attributes:
        status: Another 4xx; for an item of a batch 400.
        error: The OAuth error code.
    """

    def __init__(self, message: str, status: int, error: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
