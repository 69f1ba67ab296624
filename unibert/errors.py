"""Errors for users: each names the place and the fix, and carries the exit code of its kind.

Exit codes: 0 done · 2 usage or config · 3 data · 4 numerics · 5 checkpoint · 6 environment ·
75 stopped, run me again · 130 interrupted.
"""


class UnibertError(Exception):
    """Base of every error meant for a user; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(UnibertError):
    """A recipe, a DeepSpeed file or a command line that cannot be right."""

    exit_code = 2


class DataError(UnibertError):
    """Text, tokenizer or shards that are missing, damaged or do not belong together."""

    exit_code = 3


class NumericsError(UnibertError):
    """A loss or a gradient that is not finite."""

    exit_code = 4


class CheckpointError(UnibertError):
    """A checkpoint that cannot be written or read."""

    exit_code = 5


class MachineError(UnibertError):
    """A machine that lacks something: a package, a device, a launcher variable, disk."""

    exit_code = 6


class Stopped(UnibertError):
    """The run saved and left before its last step; the same command goes on."""

    exit_code = 75


INTERRUPTED = 130
