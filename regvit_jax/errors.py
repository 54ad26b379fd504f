"""Which error means that the user's input, not our code, is wrong?"""


class InputError(ValueError):
    """Input that cannot be used: says what was expected, what came, and what to do.

    Commands print the message without a traceback and end with exit status 2.
    """
