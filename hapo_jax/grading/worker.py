"""The process that grades: `python -m hapo_jax.grading.worker FD MEMORY_GIB PARENT`.

Started by `grading/pool.py`, never by hand. It is a program of its own, not a
`multiprocessing` child: a spawned child imports the parent's `__main__` again, and with
it jax and whatever a script without an `if __name__ == "__main__"` does.

Messages are JSON over one socket, so that nothing a grader returns is unpickled:

    -> {"task": name, "folder": of its package if it is a user's own, or "",
        "items": [[completion, answer], ...]}
    <- {"ready": true}                      once, after the start
    <- {"loaded": name, "weaker": text}     once per chunk; the clock starts here; why
     | {"failed": text}                       programs are not confined the best way
    <- {"score": 1.0, "extracted": text}    once per item, in order
     | {"late": text}                       the same, when it raised TimeoutError
     | {"no_verdict": text}                 the same, when the machine interfered
     | {"error": text, "leaving": bool}     the same, when it raised something else

The end of the socket ends the process, and so does the death of the parent.
"""

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from multiprocessing import connection
from typing import Any

from hapo_jax import tasks
from hapo_jax.tasks.sandbox import host, kernel

_GIB = 2**30
_ERROR_CHARACTERS = 300


def main(argv: list[str]) -> None:
    """Grades until the socket closes.

    Args:
      argv: number of the socket's descriptor; limit of the address space in GiB;
        process id of the parent.
    """
    descriptor, memory_gib, parent = int(argv[0]), float(argv[1]), int(argv[2])
    kernel.end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    _limit(resource.RLIMIT_AS, int(memory_gib * _GIB))
    _limit(resource.RLIMIT_CORE, 0)  # a crash must not write gigabytes
    with connection.Connection(descriptor) as socket:
        _send(socket, {"ready": True})
        _silence()
        while (request := _receive(socket)) is not None:
            if not _answer(socket, **request):
                return


def _answer(socket: connection.Connection, task: str, folder: str, items: list) -> bool:
    """Grades one chunk; False if the process should end."""
    try:
        module = _load(task, folder)
        weaker = module.why_weaker() if hasattr(module, "why_weaker") else ""
    except Exception:
        _send(socket, {"failed": traceback.format_exc()})
        return False
    _send(socket, {"loaded": task, "weaker": weaker})
    for completion, answer in items:
        reply = _grade(module, completion, answer)
        _send(socket, reply)
        if reply.get("leaving"):
            return False
    return True


def _load(task: str, folder: str) -> Any:
    """The task's module, its late imports done."""
    if folder and folder not in sys.path:
        sys.path.append(folder)  # last, so that nothing there hides a library
    module = tasks.get(task)
    if "jax" in sys.modules:
        raise ImportError(
            f"task {task!r} imports jax, and graders must not: an accelerator belongs "
            "to one process; import it where only the run needs it, or not at all"
        )
    for library in tasks.GRADER_LIBRARIES.get(task, ()):
        importlib.import_module(library)
    return module


def _grade(module: Any, completion: str, answer: str) -> dict:
    """One reply."""
    try:
        score, extracted = module.grade(completion, answer)
        return {"score": float(score), "extracted": extracted}
    except TimeoutError as error:  # it kept a clock of its own
        return {"late": str(error)}
    except host.NoVerdict as error:
        return {"no_verdict": str(error)}
    # Graders run foreign code: whatever it raises, sys.exit included, is about this
    # item alone. After a lack of memory the process leaves, for the memory may be lost.
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
        return {"error": text, "leaving": isinstance(error, MemoryError)}


def _send(socket: connection.Connection, message: dict) -> None:
    # ASCII escapes carry lone surrogates, which UTF-8 cannot.
    socket.send_bytes(json.dumps(message).encode("ascii"))


def _receive(socket: connection.Connection) -> dict | None:
    try:
        return json.loads(socket.recv_bytes())
    except (EOFError, ConnectionResetError):
        return None


def _limit(kind: int, value: int) -> None:
    """Lowers a limit; never above the hard limit that the process already has."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _silence() -> None:
    """Sends what libraries print about malformed answers to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main(sys.argv[1:])
