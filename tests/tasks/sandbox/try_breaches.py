"""Tries breaches as the user who runs it.

A program of its own, since the user should not be the one who runs the tests. Needs
nothing but the standard library. Its argument is a JSON list of [way, newest version of
Landlock]; it prints JSON, a list per way of what got through, or a text that says why
the way does not work here; and behind these what the kernel's rules refuse without the
filter, see `layers`.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

from hapo_jax.tasks.sandbox import confine, host, kernel, landlock, seccomp, trials
from tests.tasks.sandbox import breaches

LIMITS = confine.Limits(wall_s=0.8, cpu_s=3, memory_mib=256, threads=8)
SLEEPS = b'{"program": "import time\\ntime.sleep(999)"}'
END = "\nsys.stdout.write('through')\nsys.stdout.flush()\nos._exit(0)\n"
LEFT = pathlib.Path("/dev/shm/hapo_jax_breach")


def main() -> None:
    found = []
    for way, most in json.loads(sys.argv[1]):
        try:
            with host.Sandbox(way, most=most) as box:
                host._try(box)
                found.append(try_all(box))
        except RuntimeError as error:
            found.append(str(error))
    print(json.dumps([*found, layers()]))


def try_all(box: host.Sandbox) -> list[str]:
    """Names of the breaches that got through."""
    through = []
    names = list(breaches.BREACHES)
    while names:
        with contextlib.ExitStack() as stack:
            others = Others(stack, box)
            while names:
                name = names.pop(0)
                if others.suffer(name):
                    through.append(name)
                    break  # with others that have not suffered
    return through


class Others:
    """What programs must leave alone: files, sockets, processes, shared things."""

    def __init__(self, stack: contextlib.ExitStack, box: host.Sandbox):
        self.box = box
        self.folder = stack.enter_context(tempfile.TemporaryDirectory())
        # Modes alone would let anybody do anything.
        folder = pathlib.Path(self.folder)
        (folder / "kept").write_text("kept")
        (folder / "folder").mkdir()
        (folder / "link").symlink_to("kept")
        self.victim = subprocess.Popen(["sleep", "999"])
        stack.callback(self.victim.wait)
        stack.callback(self.victim.kill)
        with host.sealed(SLEEPS) as payload, open(os.devnull, "r+b") as null:
            files = [null.fileno(), null.fileno(), payload]
            self.rival = box.start("program", files, LIMITS)
        stack.callback(_end, box, self.rival)
        self.sockets = []
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"{self.folder}/stream"),
            (socket.AF_UNIX, socket.SOCK_DGRAM, f"{self.folder}/datagram"),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0hapo_jax{os.getpid()}"),
            (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0hapo_jax{os.getpid()}d"),
        ):
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.listen()
            self.sockets.append(made)
        port = self.sockets[0].getsockname()[1]
        datagrams = stack.enter_context(
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        datagrams.bind(("127.0.0.1", port))
        datagrams.setblocking(False)
        self.sockets.append(datagrams)
        for path in (folder, *folder.iterdir()):
            path.chmod(0o777)
        names = {
            "FOLDER": self.folder,
            "PORT": port,
            "ABSTRACT": f"hapo_jax{os.getpid()}",
            "VICTIM": self.victim.pid,
            "RIVAL": self.rival,
            "NUMBER": _numbers(),
            **_shared(stack),
        }
        said = [f"{name} = {value!r}\n" for name, value in names.items()]
        self.preamble = breaches.PRELUDE + "".join(said)
        self.before = self.look()

    def suffer(self, name: str) -> bool:
        """Tries one; whether it got through."""
        try:
            trial = trials.on_input(
                self.box,
                breaches.BREACHES[name].program + END,
                data="",
                accept=lambda text: "through" in text,
                limits=LIMITS,
                preamble=self.preamble,
            )
        except host.NoVerdict:  # it pretends that others interfered
            return True
        return trial.passed or self.look() != self.before

    def look(self) -> list:
        """All that must not change."""
        folder = pathlib.Path(self.folder)
        files = [
            (p.name, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_size)
            for p in sorted([folder, *folder.iterdir()])
            for s in [p.lstat()]
        ]
        heard = [(_pending(made), made.family) for made in self.sockets]
        lives = [_state(process) for process in (self.victim.pid, self.rival)]
        return [files, heard, lives, LEFT.exists(), (folder / "kept").read_text()]


def layers() -> dict[str, list[str]]:
    """Version of Landlock → promises that its rules keep, without the filter."""
    found = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        victim = subprocess.Popen(["sleep", "999"])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0hapo_jax{os.getpid()}layers")
        abstract.listen(32)
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        path = f"{folder}/kept"
        attempts = {
            "reads": lambda: os.listdir("/etc"),
            "writes": lambda: os.open(path, os.O_WRONLY),
            # Reading is allowed here, or it would be what is refused.
            "truncation": lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
            "signals": lambda: os.kill(victim.pid, 0),
            "memory": lambda: _trace(victim.pid),
            "abstract": lambda: _connect(abstract),
            "network": lambda: _connect(port),
        }
        try:
            newest = landlock.version()
        except OSError:
            return {}
        for version in range(1, min(newest, landlock.NEWEST) + 1):
            reading, writing = os.pipe()
            pathlib.Path(path).write_text("kept")
            if (child := os.fork()) == 0:
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                landlock.restrict(landlock.rules(["/usr", folder], [], version))
                refused = []
                for name, attempt in attempts.items():
                    try:
                        attempt()
                    except PermissionError:
                        refused.append(name)
                os.write(writing, json.dumps(refused).encode())
                os._exit(0)
            os.close(writing)
            os.waitpid(child, 0)
            with open(reading) as file:
                found[str(version)] = json.loads(file.read())
    return found


def _connect(to: socket.socket) -> None:
    with socket.socket(to.family) as made:
        made.connect(to.getsockname())


def _trace(process: int) -> None:
    kernel._check(kernel._libc().ptrace(16, process, 0, 0), "ptrace")
    kernel._libc().ptrace(17, process, 0, 0)


def _end(box: host.Sandbox, process: int) -> None:
    with contextlib.suppress(host.NoVerdict):
        box.end(process)


def _numbers() -> dict[str, int]:
    here = kernel.architecture()
    tables = (seccomp._REFUSED, seccomp._UNKNOWN, seccomp._PARTLY, kernel._NUMBERS)
    numbers = {n: v[here] for table in tables for n, v in table.items()}
    more = {"creat": (85, None), "renameat2": (316, 276), "shmget": (29, 194)}
    return numbers | {name: v[here] for name, v in more.items()}


def _shared(stack: contextlib.ExitStack) -> dict[str, int]:
    """Shared memory, a semaphore and a queue that anybody may use."""
    libc = ctypes.CDLL(None)
    made = {
        "SHARED": libc.shmget(0, 4096, 0o1666),
        "SEMAPHORE": libc.semget(0, 1, 0o1666),
        "QUEUE": libc.msgget(0, 0o1666),
    }
    stack.callback(libc.shmctl, made["SHARED"], 0, 0)
    stack.callback(libc.semctl, made["SEMAPHORE"], 0, 0, 0)
    stack.callback(libc.msgctl, made["QUEUE"], 0, 0)
    return made


def _pending(made: socket.socket) -> bool:
    """Whether somebody has connected or sent; takes it."""
    try:
        if made.type == socket.SOCK_STREAM:
            made.accept()[0].close()
        else:
            made.recv(64)
        return True
    except BlockingIOError:
        return False


def _state(process: int) -> tuple:
    """Whether it lives, its limits, priority and processors."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
        limits = pathlib.Path(f"/proc/{process}/limits").read_text()
    except OSError:
        return ("gone",)
    alive = fields.split()[0] in "RSD"
    nice = os.getpriority(os.PRIO_PROCESS, process)
    policy = os.sched_getscheduler(process)
    return alive, limits, nice, policy, sorted(os.sched_getaffinity(process))


if __name__ == "__main__":
    main()
