"""The one exception type for mistakes that a user can mend."""


class UserError(ValueError):
    """One clear message that says what is wrong and what to do.

    ``launch.py`` prints the message without a traceback (``--verbose`` shows it) and exits with status 2.
    """
