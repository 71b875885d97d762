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

from hapo_jax.tasks.sandbox import kernel, landlock, seccomp

_NOBODY = 65534
# Users for programs, a process id's number above this: such users are nobody else's.
# systemd leaves 1879048192 to 2147483647 unused.
_USERS = 1_879_048_192
_MOST_PROCESSES = 2**22  # process ids end there
_MIB = 2**20
_STACK_MIB = 64
_DESCRIPTORS = 64
# Devices that programs may expect; /dev itself holds the machine's disks.
_DEVICES = ("null", "zero", "random", "urandom")
# Links into /usr on most systems, folders on some.
_LIBRARIES = ("/lib", "/lib64")
# Where libraries below /tmp are to be found again; no user's path has such a name.
_AGAIN = "/.hapo_jax_libraries"
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
      threads: at a time, the first included; an ordinary user's are bounded by memory
        alone under Landlock.
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
      prepare: (newest version of Landlock to use), once in the launcher; returns what
        `enter` needs.
      enter: (what `prepare` returned, limits), in the program's process.
    """

    namespaces: int
    prepare: Callable[[int], Any]
    enter: Callable[[Any, Limits], None]


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


def _prepare_namespaces(most: int) -> list[tuple[str, str]]:
    """A root folder of its own, for this process and those that it will start.

    Returns:
      (folder, where else it can be found) for the libraries below /tmp, which each
      program's own /tmp covers.
    """
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
    folders = [os.path.abspath(path) for path in _library_folders()]
    covered = [path for path in folders if os.path.commonpath([path, "/tmp"]) == "/tmp"]
    again = [(path, f"{_AGAIN}/{place}") for place, path in enumerate(covered)]
    shown = {path: path for path in folders} | {place: path for path, place in again}
    shown |= {f"/dev/{name}": f"/dev/{name}" for name in _DEVICES}
    # Opened before the new root covers what may lie below the same folder.
    opened = {place: os.open(path, os.O_PATH) for place, path in shown.items()}
    root = pathlib.Path("/tmp")  # any folder: the mount is seen by nobody else
    links = {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
    kernel.mount("tmpfs", str(root), "tmpfs", _PRIVATE, "size=1m,mode=755")
    for place, descriptor in opened.items():
        target = root / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(source):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        bind = kernel.MOUNT_BIND | kernel.MOUNT_RECURSIVE
        kernel.mount(source, str(target), "none", bind)
        os.close(descriptor)
    for path, target in links.items():
        if not (root / path.lstrip("/")).exists():
            (root / path.lstrip("/")).symlink_to(target)
    (root / "tmp").mkdir(exist_ok=True)
    kernel.make_read_only(str(root))
    kernel.change_root(str(root))
    return again


def _enter_namespaces(prepared: list[tuple[str, str]], limits: Limits) -> None:
    above = {up for path, _ in prepared for up in (path, *map(str, _parents(path)))}
    inodes = limits.files + 1 + len(above)
    size = f"size={limits.disk_mib}m,nr_inodes={inodes},mode=1777"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _PRIVATE, size)
    for path, place in prepared:
        os.makedirs(path, exist_ok=True)
        kernel.mount(place, path, "none", kernel.MOUNT_BIND | kernel.MOUNT_RECURSIVE)
    os.chdir("/tmp")
    _give_up_root(_NOBODY)
    # Of its own, so that its threads are counted apart from everybody else's.
    kernel.unshare(kernel.NEW_USER)
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.threads, limits.threads))
    kernel.set_capabilities()


def _prepare_landlock(most: int) -> int:
    """A folder to be in, and the rules about all folders."""
    # As with namespaces; what is there can be neither read nor changed.
    os.chdir("/tmp")
    devices = [f"/dev/{name}" for name in _DEVICES]
    return landlock.rules(_library_folders(), devices, most)


def _enter_landlock(prepared: int, limits: Limits) -> None:
    # Python may be installed where only root can look, as in /root; Landlock decides.
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    # A user of its own, who owns nothing and no other process.
    alone = _give_up_root(_USERS + os.getpid())
    kept = [kernel.CAP_DAC_READ_SEARCH] if alone or _give_up_root(_NOBODY) else []
    if alone:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits.threads, limits.threads))
    kernel.set_capabilities(*kept)
    landlock.restrict(prepared)


def own_users() -> bool:
    """Whether each program gets a user of its own under Landlock: root may do so.

    Root of a user namespace can become the users alone that are mapped into it.
    """
    if os.getuid():
        return False
    first, last = _USERS, _USERS + _MOST_PROCESSES
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map") as lines:
            spans = [
                (int(start), int(count)) for start, _, count in map(str.split, lines)
            ]
        if not any(s <= first and last < s + count for s, count in spans):
            return False
    return True


def _give_up_root(user: int) -> bool:
    """Becomes this user; False if this is an ordinary user anyway, or cannot be it."""
    if os.getuid():
        return False
    try:
        os.setresgid(user, user, user)
        os.setgroups([])
        os.setresuid(user, user, user)
    except OSError as error:
        # No such user in this user namespace: then its root is an ordinary user.
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _limit(limits: Limits) -> None:
    for kind, value in (
        # The launcher keeps the limit, see there; this one is a second line.
        (resource.RLIMIT_CPU, 2 * limits.cpu_s + 10),
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
    for path in sorted({_without_link(path) for path in wanted}, key=len):
        inside = any(os.path.commonpath([path, other]) == other for other in found)
        if os.path.isdir(path) and not inside:
            found.append(path)
    return found


def _without_link(path: str) -> str:
    """A path by its other name, if its first folder is a link as /lib can be."""
    for link in _LIBRARIES:
        if os.path.islink(link) and os.path.commonpath([path, link]) == link:
            return os.path.realpath(link) + path[len(link) :]
    return path


def _parents(path: str) -> list[pathlib.PurePath]:
    """The folders above a path that lie below /tmp."""
    return [up for up in pathlib.PurePath(path).parents if len(up.parts) > 2]


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# Tried in this order.
WAYS = {
    "namespaces": Way(
        kernel.NEW_PIDS | kernel.NEW_MOUNTS, _prepare_namespaces, _enter_namespaces
    ),
    "landlock": Way(0, _prepare_landlock, _enter_landlock),
}
