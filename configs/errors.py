"""The one exception that means: the user can mend this."""

import re


class UserError(Exception):
    """A mistake in input, config or environment.

    The command line prints `what` and `mend`, without a traceback, and exits with status 2. What a URL in them says
    before an `@` or behind a `?` may be a secret, and is left out.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        what, mend = _without_secrets(what), _without_secrets(mend)
        super().__init__(what if not mend else f"{what}\n  {mend}")
        self.what = what
        self.mend = mend


def _without_secrets(message: str) -> str:
    """Example: `s3://key:secret@bucket/x?token=1` becomes `s3://***@bucket/x?***`; a path has one slash of the two."""
    return re.sub(r"(:/+[^\s?]*)\?[^\s'\"]+", r"\1?***", re.sub(r"(:/+)\S*@", r"\1***@", message))
