"""The exception for mistakes that the user can fix."""

import re


class UserError(Exception):
    """A mistake in input, config or environment.

    The command line prints `what` and `mend`, without a traceback, and exits with status 2. In a URL, the parts
    before an `@` and behind a `?` are masked, because they may be secrets.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        what, mend = _without_secrets(what), _without_secrets(mend)
        super().__init__(what if not mend else f"{what}\n  {mend}")
        self.what = what
        self.mend = mend


def _without_secrets(message: str) -> str:
    """Mask credentials in the URLs of a message.

    Example: `s3://key:secret@bucket/x?token=1` becomes `s3://***@bucket/x?***`. One slash is enough for a URL here,
    because `Path` turns `s3://` into `s3:/`.
    """
    return re.sub(r"(:/+[^\s?]*)\?[^\s'\"]+", r"\1?***", re.sub(r"(:/+)\S*@", r"\1***@", message))
