"""The two ways to confine a program; see the package's docstring for what each means.

A way has two halves: `prepare` runs once in the launcher, `enter` in each program's
process before the program, in which it ends without a way back.
"""

import errno
import os
import pathlib
import resource
import select
import sys
import sysconfig
from collections.abc import Callable
from typing import Any, NamedTuple

from hapo_jax.tasks.sandbox import kernel, seccomp

_NOBODY = 65534
_MIB = 2**20
_STACK_MIB = 64
_DESCRIPTORS = 64
# Devices that programs may expect; /dev itself holds the machine's disks.
_DEVICES = ("null", "zero", "random", "urandom")
# Links into /usr on most systems, folders on some.
_LIBRARIES = ("/lib", "/lib64")
_PRIVATE = kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES


class Limits(NamedTuple):
    """What one program may use.

    Attributes:
      wall_s: seconds by the clock, from its first instruction; > 0.
      cpu_s: seconds of processor time, whole, ≥ 1.
      memory_mib: address space, Python's 40 included.
      output_bytes: on its standard output.
      disk_mib: of all files together; in memory, and gone at the end.
      files: how many files and folders.
      threads: at a time, the first included; under Landlock only memory bounds them.
    """

    wall_s: float = 6.0
    cpu_s: int = 6
    memory_mib: int = 1024
    output_bytes: int = 4 * _MIB
    disk_mib: int = 16
    files: int = 256
    threads: int = 32


class Way(NamedTuple):
    """One way of confinement.

    Attributes:
      namespaces: of the program's process, for `kernel.fork`.
      prepare: once in the launcher; returns what `enter` needs.
      enter: (what `prepare` returned, limits), in the program's process.
      network: what keeps it off the network, in words.
      files: what it sees of the files, in words.
    """

    namespaces: int
    prepare: Callable[[], Any]
    enter: Callable[[Any, Limits], None]
    network: str
    files: str


def confine(way: Way, prepared: Any, limits: Limits, lifeline: int) -> None:
    """Confines this process for good.

    Args:
      way, prepared: see `Way`.
      limits: of this process.
      lifeline: end of a pipe whose other end the launcher alone holds.

    Raises:
      OSError: the kernel refuses; the process must not go on.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    way.enter(prepared, limits)
    _limit(limits)
    # Set last, as a change of user resets it; then a look whether it came too late.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if select.select([lifeline], [], [], 0)[0]:
        raise OSError("the launcher has gone.")
    seccomp.install()


def _prepare_namespaces() -> None:
    """A root folder of its own, for this process and those that it will start."""
    flags = kernel.NEW_MOUNTS | kernel.NEW_NETWORK | kernel.NEW_IPC
    flags |= kernel.NEW_HOSTNAME
    user, group = os.getuid(), os.getgid()
    if user:
        kernel.unshare(flags | kernel.NEW_USER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    else:
        kernel.unshare(flags)
    kernel.mount("none", "/", "none", kernel.MOUNT_RECURSIVE | kernel.MOUNT_PRIVATE)
    shown = [os.path.abspath(path) for path in _library_folders()]
    shown += [f"/dev/{name}" for name in _DEVICES]
    # Opened before the new root covers what may lie below the same folder.
    opened = {path: os.open(path, os.O_PATH) for path in shown}
    root = pathlib.Path("/tmp")  # any folder: the mount is seen by nobody else
    links = {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
    kernel.mount("tmpfs", str(root), "tmpfs", _PRIVATE, "size=1m,mode=755")
    for path, descriptor in opened.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(source):
            target.mkdir()
        else:
            target.touch()
        bind = kernel.MOUNT_BIND | kernel.MOUNT_RECURSIVE
        kernel.mount(source, str(target), "none", bind)
        os.close(descriptor)
    for path, target in links.items():
        (root / path.lstrip("/")).symlink_to(target)
    (root / "tmp").mkdir()
    kernel.make_read_only(str(root))
    kernel.change_root(str(root))


def _enter_namespaces(prepared: None, limits: Limits) -> None:
    size = f"size={limits.disk_mib}m,nr_inodes={limits.files + 1},mode=1777"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _PRIVATE, size)
    os.chdir("/tmp")
    _give_up_root()
    # Of its own, so that its threads are counted apart from everybody else's.
    kernel.unshare(kernel.NEW_USER)
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.threads, limits.threads))
    kernel.set_capabilities()


def _prepare_landlock() -> int:
    """A folder to be in, and the rules about all folders."""
    os.chdir(
        "/tmp"
    )  # as with namespaces; what is there can be neither read nor changed
    devices = [f"/dev/{name}" for name in _DEVICES]
    return kernel.landlock_rules(_library_folders(), devices)


def _enter_landlock(prepared: int, limits: Limits) -> None:
    # Python may be installed where only root can look, as in /root; Landlock decides.
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    kept = [kernel.CAP_DAC_READ_SEARCH] if _give_up_root() else []
    kernel.set_capabilities(*kept)
    kernel.landlock(prepared)


def _give_up_root() -> bool:
    """Becomes nobody; False if this is an ordinary user anyway."""
    if os.getuid():
        return False
    try:
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setgroups([])
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError as error:
        # No such user in this user namespace: then its root is an ordinary user.
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _limit(limits: Limits) -> None:
    for kind, value in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_mib * _MIB),
        (resource.RLIMIT_STACK, _STACK_MIB * _MIB),
        (resource.RLIMIT_FSIZE, limits.disk_mib * _MIB),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        # Programs may ask for a larger stack, which the address space bounds too.
        most = hard if kind == resource.RLIMIT_STACK else value
        resource.setrlimit(kind, (value, most))


def _library_folders() -> list[str]:
    """Python's folders and the system's libraries, none below another."""
    paths = sysconfig.get_paths()
    wanted = ["/usr", *(path for path in _LIBRARIES if not os.path.islink(path))]
    wanted += [os.path.join(sys.base_prefix, "lib"), paths["stdlib"]]
    wanted += [paths["platstdlib"], paths["purelib"], paths["platlib"]]
    found: list[str] = []
    for path in sorted(set(wanted), key=len):
        inside = any(os.path.commonpath([path, other]) == other for other in found)
        if os.path.isdir(path) and not inside:
            found.append(path)
    return found


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# Tried in this order.
WAYS = {
    "namespaces": Way(
        kernel.NEW_PIDS | kernel.NEW_MOUNTS,
        _prepare_namespaces,
        _enter_namespaces,
        "a network namespace without devices, and refused sockets",
        "Python and system libraries alone, read-only, and an empty /tmp",
    ),
    "landlock": Way(
        0,
        _prepare_landlock,
        _enter_landlock,
        "refused sockets",
        "Python and system libraries alone, read-only; no temporary files",
    ),
}
