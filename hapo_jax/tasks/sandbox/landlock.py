"""Landlock: the kernel's own rules about files, ports, sockets and signals.

A kernel has a version of Landlock, and each version knows more kinds of access:

    1  reading, writing, making and removing files    4  TCP ports
    2  moving files between folders                   5  ioctl on devices
    3  truncating files by their path                 6  signals and abstract sockets

Here all that the kernel's version knows is refused, but for reading the folders that
are named. What an older version leaves open, the system-call filter closes
(`seccomp.py`); versions above 6 know no further kind of access that would be refused.

Numbers are those of <linux/landlock.h>.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence

from hapo_jax.tasks.sandbox import kernel

NEWEST = 6  # later versions refuse nothing more

_READ = 0b1101  # execute, read file, read folder
_USE = 0b0110  # write file, read file
# version -> what it adds
_FILES = {1: 0x1FFF, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_PORTS = {4: 0b11}  # bind, connect
_SCOPES = {6: 0b11}  # abstract sockets, signals: not beyond the program itself
_ASK_VERSION = 1


def version() -> int:
    """The kernel's.

    Raises:
      OSError: it has no Landlock, or it is switched off.
    """
    return kernel.call("landlock_create_ruleset", 0, 0, _ASK_VERSION)


def rules(folders: Sequence[str], devices: Sequence[str], most: int = NEWEST) -> int:
    """Descriptor of rules: folders can be read, devices used, and nothing else.

    Args:
      folders: with all below them.
      devices: files that can be read and written.
      most: the version to keep to where the kernel's is newer, as older kernels do.

    Raises:
      OSError: the kernel has no Landlock.
    """
    known = min(version(), most)
    handled = [
        sum(bits for since, bits in table.items() if since <= known)
        for table in (_FILES, _PORTS, _SCOPES)
    ]
    # Older kernels know a shorter structure and want zeros behind it.
    attributes = struct.pack("QQQ", *handled)
    found = kernel.call("landlock_create_ruleset", attributes, len(attributes), 0)
    rights = dict.fromkeys(folders, _READ) | dict.fromkeys(devices, _USE)
    for path, allowed in rights.items():
        with _opened(path) as descriptor:
            rule = struct.pack("=Qi", allowed, descriptor)
            kernel.call("landlock_add_rule", found, 1, rule, 0)
    return found


def restrict(rules: int) -> None:
    """Puts this process under rules, for ever; after PR_SET_NO_NEW_PRIVS."""
    kernel.call("landlock_restrict_self", rules, 0)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor that names a folder and gives no access to its content."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
