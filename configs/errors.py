"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in input, config or environment.

    The command line prints `what` and `mend`, without a traceback, and exits with status 2.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what if not mend else f"{what}\n  {mend}")
        self.what = what
        self.mend = mend
