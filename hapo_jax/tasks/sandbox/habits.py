"""What programs do by habit and a way of confinement would refuse.

A verdict must not depend on how a program is confined. So the names of its standard
streams work wherever `/dev` and `/proc` are not shown, and a larger stack may be asked
for though memory is limited. Nothing here protects from anything: it lends a hand, in
the program's own process.
"""

import _thread
import builtins
import functools
import io
import os
import resource
import threading

# Other names of a program's standard streams, as Linux has them.
_STREAMS = {
    f"{folder}/{name}": number
    for number, word in enumerate(("stdin", "stdout", "stderr"))
    for folder, name in (
        ("/dev", word),
        ("/dev/fd", number),
        ("/proc/self/fd", number),
        ("/proc/thread-self/fd", number),
    )
}
_STACK_SHARE = 4  # one in so many bytes of the address space for the stack of a thread


def install() -> None:
    """Teaches them to this process."""
    # Partial functions, since a class that holds one must not take it for a method.
    io.open = builtins.open = functools.partial(_open, io.open)
    os.open = functools.partial(_open_number, os.open)
    os.stat = functools.partial(_stat, os.stat)
    os.access = functools.partial(_access, os.access)
    resource.setrlimit = functools.partial(_set_limit, resource.setrlimit)
    size = functools.partial(_stack_size, threading.stack_size)
    threading.stack_size = _thread.stack_size = size


def _stream(path) -> int | None:
    """The number of a standard stream that goes by this name."""
    try:
        return _STREAMS.get(os.fspath(path))
    except TypeError:
        return None


def _open(native, file, *args, **kwargs):
    number = _stream(file)
    # As from a pipe: what has been read is gone.
    return native(file if number is None else os.dup(number), *args, **kwargs)


def _open_number(native, path, *args, **kwargs):
    number = _stream(path)
    return native(path, *args, **kwargs) if number is None else os.dup(number)


def _stat(native, path, *args, **kwargs):
    number = _stream(path)
    return native(path if number is None else number, *args, **kwargs)


def _access(native, path, *args, **kwargs):
    return _stream(path) is not None or native(path, *args, **kwargs)


def _set_limit(native, kind, limits):
    """Of the stack it gives what can be had; programs ask for more than they need."""
    if kind == resource.RLIMIT_STACK:
        soft, _ = limits
        _, most = resource.getrlimit(kind)
        limits = _least(soft, most), most
    return native(kind, limits)


def _stack_size(native, *size):
    if size and isinstance(size[0], int):
        memory, _ = resource.getrlimit(resource.RLIMIT_AS)
        if memory != resource.RLIM_INFINITY:
            pages = memory // _STACK_SHARE // 4096
            size = (min(size[0], pages * 4096),)
    return native(*size)


def _least(*limits: int) -> int:
    """The lowest of limits, of which RLIM_INFINITY is the highest."""
    finite = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min(finite, default=resource.RLIM_INFINITY)
