"""A request that is not granted, and why."""

from typing import Any

from icefarm_schemas import Error, ErrorCode


class RefusedError(Exception):
    """A request that cannot be granted.

    `may_pass` is true of a reason that can be waited for.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, may_pass: bool = False, **details: Any
    ) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        self.error = Error(code=code, message=message, details=details)
