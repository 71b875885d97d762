"""System calls that Python does not offer: namespaces, mounts, capabilities.

Each raises OSError like those of `os`. Numbers are those of <linux/sched.h>,
<linux/mount.h>, <linux/prctl.h> and <asm/unistd.h>.
"""

import ctypes
import functools
import os
import platform
import signal
import struct
import sys

NEW_MOUNTS = 0x00020000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

MOUNT_NO_SUID = 0x2
MOUNT_NO_DEVICES = 0x4
MOUNT_BIND = 0x1000
MOUNT_RECURSIVE = 0x4000
MOUNT_PRIVATE = 0x40000

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

CAP_DAC_READ_SEARCH = 2

# Signals that a process brings about neither by what it computes nor by an error. A
# program under the filter can send none to itself; of SIGKILL our own are to be known.
FROM_OUTSIDE = frozenset(
    {
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)

_AT_RECURSIVE = 0x8000
_MOUNT_ATTR = 0b11  # read-only, no set-user-ID
_DETACH = 2

# x86-64 and arm64, <asm/unistd.h>; later ones are the same everywhere
_NUMBERS = {
    "clone": (56, 220),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}


def architecture() -> int:
    """Column of this machine in tables of numbers: 0 for x86-64, 1 for arm64.

    Raises:
      OSError: it is neither, or the system is not Linux.
    """
    columns = {"x86_64": 0, "aarch64": 1, "arm64": 1}
    if sys.platform != "linux" or platform.machine() not in columns:
        raise OSError(
            f"programs can be confined on Linux on x86-64 and arm64, not on "
            f"{sys.platform} on {platform.machine()}."
        )
    return columns[platform.machine()]


def fork(namespaces: int) -> int:
    """`os.fork` into new namespaces; 0 in the child, which is process 1 of its own."""
    _python().PyOS_BeforeFork()
    child = -1
    try:
        child = call("clone", namespaces | signal.SIGCHLD, 0, 0, 0, 0)
    finally:
        if child == 0:
            _python().PyOS_AfterFork_Child()
        else:
            _python().PyOS_AfterFork_Parent()
    return child


def unshare(namespaces: int) -> None:
    """Moves this process into new namespaces."""
    _check(_libc().unshare(namespaces), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    texts = [text.encode() for text in (source, target, kind)]
    pointer = ctypes.c_ulong(flags)
    _check(_libc().mount(*texts, pointer, data.encode()), f"mount on {target}")


def make_read_only(folder: str) -> None:
    """Makes a mount and all below it read-only and blind to set-user-ID."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR, 0, 0, 0)
    call(
        "mount_setattr",
        -100,
        folder.encode(),
        _AT_RECURSIVE,
        attributes,
        len(attributes),
    )


def change_root(folder: str) -> None:
    """Makes a mount the root, and lets go of everything outside."""
    os.chdir(folder)
    call("pivot_root", b".", b".")
    _check(_libc().umount2(b".", _DETACH), "umount2")
    os.chdir("/")


def set_capabilities(*kept: int) -> None:
    """Gives up all capabilities but these (below number 32)."""
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this thread
    sets = struct.pack("IIIIII", mask, mask, 0, 0, 0, 0)
    call("capset", header, sets)


def prctl(option: int, *values) -> None:
    """prctl(2)."""
    values = [ctypes.c_ulong(v) if isinstance(v, int) else v for v in values]
    values += [ctypes.c_ulong(0)] * (4 - len(values))
    _check(_libc().prctl(option, *values), f"prctl({option})")


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the parent dies, even in mid-computation.

    Elsewhere than on Linux the end of the socket does it, after the current item.

    Args:
      parent: process id of the parent, which may have died already.
    """
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


@functools.cache
def _libc() -> ctypes.PyDLL:
    # PyDLL, which keeps the interpreter's lock: nobody may wait for it after a fork.
    return ctypes.PyDLL(None, use_errno=True)


def _python() -> ctypes.PyDLL:
    api = ctypes.pythonapi
    for name in ("BeforeFork", "AfterFork_Child", "AfterFork_Parent"):
        getattr(api, f"PyOS_{name}").restype = None
    return api


def call(name: str, *values: "int | bytes") -> int:
    """syscall(2); integers are passed as long, bytes as their address."""
    number = _NUMBERS[name][architecture()]
    values = [ctypes.c_long(v) if isinstance(v, int) else v for v in values]
    return _check(_libc().syscall(ctypes.c_long(number), *values), name)


def _check(result: int, name: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
