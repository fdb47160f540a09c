"""The kinds of failure that rerankkit reports without a traceback."""


class InputError(ValueError):
    """The user gave something wrong: the message says what, where, and what to do. Exit code 2."""


class RunError(RuntimeError):
    """The work could not be done: no network, a full disk, a corrupt file. Exit code 1."""


class Interrupted(Exception):
    """The user stopped work that can be taken up again: the message says how. Exit code 130."""
