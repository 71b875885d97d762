"""Ends of a program that are no faults of it; they keep no traceback.

Imports nothing, so that every part of the package may raise them.
"""


class Refused(ValueError):
    """Input that cannot be used: a flag, a config, a model, data, files of a run.

    Its message names what, the value, the rule and the remedy. Status 2: starting the
    same again is in vain. Any other ValueError is a fault of the program.
    """


class RunFailed(Exception):
    """The run cannot go on, and its message says why, and what to do. Status 1."""


class Diverged(RunFailed, FloatingPointError):
    """The policy, its gradients or statistics are not finite."""


class Unhealthy(RunFailed):
    """The run doctor has found something, and was asked to end the run then."""


class DiskFailed(RunFailed, OSError):
    """What must not be lost could not be written, or read, for too long."""
