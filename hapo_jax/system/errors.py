"""Ends of a run that are no faults of the program; they keep no traceback."""


class RunFailed(Exception):
    """The run cannot go on, and its message says why, and what to do. Status 1."""


class Diverged(RunFailed, FloatingPointError):
    """The policy, its gradients or statistics are not finite."""


class DiskFailed(RunFailed, OSError):
    """What must not be lost could not be written, or read, for too long."""
