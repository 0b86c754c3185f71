"""The errors that end a script with one line on stderr and exit code 2."""


class UserError(Exception):
    """Something that the user can fix. The message says what is wrong and what to do."""
