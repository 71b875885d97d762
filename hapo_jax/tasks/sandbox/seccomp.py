"""The system-call filter of a confined program, in the kernel's BPF.

What a program that computes needs is allowed. Refused with "not permitted": new
processes (threads are none), other programs, sockets, signals, limits, priorities and
memory of other processes, namespaces, mounts, capabilities, kernel keys, shared memory
that no limit counts, queues and semaphores of others, and changes of owners and modes.
Of some calls only a part is refused, by their arguments, see `_partly`. Refused with
"no such call", so that libraries fall back: `clone3`, `openat2` (their arguments lie in
memory, where a filter cannot look), `io_uring`, and calls newer than this table.

Sources: seccomp(2), <linux/filter.h>, <linux/audit.h>, <asm/unistd.h>.
"""

import ctypes
import errno
import fcntl
import functools
import os
import socket
import struct

from hapo_jax.tasks.sandbox import kernel

# name: number on x86-64, on arm64; None where there is no such call
_REFUSED = {
    # other processes and programs
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_mrelease": (448, 448),
    # a timer can send any signal, SIGKILL too, which would look like somebody else's
    "timer_create": (222, 107),
    # sockets; of pairs see `_partly`
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # ways out of the confinement, and parts of the kernel with a history of errors
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "capset": (126, 91),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    # the machine
    "syslog": (103, 116),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "ioperm": (173, None),
    "iopl": (172, None),
    "sync": (162, 81),
    "syncfs": (306, 267),
    # memory beyond the limit of the address space
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # memory, semaphores and queues that processes share, by number or name
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    # what others do with files, and locks that would hold them up
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "flock": (73, 32),
    # changes to files that Landlock does not know, or its first version does not
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
    "futimesat": (261, None),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_UNKNOWN = {
    "clone3": (435, 435),
    "openat2": (437, 437),
    "io_uring_setup": (425, 425),
}
_PARTLY = {
    "clone": (56, 220),
    "prctl": (157, 167),
    "open": (2, None),
    "openat": (257, 56),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "socketpair": (53, 199),
    "sched_setaffinity": (203, 122),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
}
_NEWEST = 456  # futex_requeue, Linux 6.7; 32-bit calls on x86-64 lie far above
_AUDIT_ARCHITECTURE = (0xC000003E, 0xC00000B7)

_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020000
# `fcntl` can have signals sent to others, leases and notices held, and pipes enlarged.
_FCNTL = (
    fcntl.F_DUPFD,
    fcntl.F_DUPFD_CLOEXEC,
    fcntl.F_GETFD,
    fcntl.F_SETFD,
    fcntl.F_GETFL,
    5,  # F_GETLK, F_SETLK and F_SETLKW; SQLite locks its file
    6,
    7,
    36,  # the same for an open file: F_OFD_*
    37,
    38,
    1032,  # F_GETPIPE_SZ
    1034,  # F_GET_SEALS
)
# `ioctl` can have signals sent too, and types into terminals.
_IOCTL = (
    0x5401,  # TCGETS, whether it is a terminal
    0x802C542A,  # TCGETS2, the same of newer C libraries
    0x5413,  # TIOCGWINSZ, how wide it is
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
)
_PRCTL_REFUSED = (
    kernel.PR_SET_PDEATHSIG,  # it must not part its life from the launcher's
    35,  # PR_SET_MM
    62,  # PR_SCHED_CORE, of others
    0x59616D61,  # PR_SET_PTRACER: its memory is not open to others
)
_TOGETHER = 12
_PROCESSOR_TIME = 0  # RLIMIT_CPU

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_NO_SUCH_CALL = 0x00050000 | errno.ENOSYS

# Where things stand in the kernel's `struct seccomp_data`
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _AND, _RETURN = 0x20, 0x54, 6
_JUMP_IF_EQUAL, _JUMP_IF_GREATER, _JUMP_IF_SET = 0x15, 0x25, 0x45


def install() -> None:
    """Puts this process under the filter, for ever; needs PR_SET_NO_NEW_PRIVS."""
    program = build()
    code = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    description = Filter(len(program) // 8, ctypes.addressof(code))
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(description))


@functools.cache
def build() -> bytes:
    """The filter: instructions of 8 bytes, whose jumps count instructions forward."""
    here = kernel.architecture()
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_IF_EQUAL, _AUDIT_ARCHITECTURE[here], yes=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_IF_GREATER, _NEWEST, no=1),
        _step(_RETURN, _NO_SUCH_CALL),
    ]
    decisions = [(_PARTLY[name], decision) for name, decision in _partly().items()]
    for table, answer in ((_REFUSED, _REFUSE), (_UNKNOWN, _NO_SUCH_CALL)):
        decisions += [(numbers, [_step(_RETURN, answer)]) for numbers in table.values()]
    calls = sorted((n[here], d) for n, d in decisions if n[here] is not None)
    # In groups that are skipped as a whole: the kernel tries the filter on every call
    # when it is installed, once per program.
    for start in range(0, len(calls), _TOGETHER):
        group = calls[start : start + _TOGETHER]
        tried = [step for number, decision in group for step in _when(number, decision)]
        tried.append(_step(_RETURN, _ALLOW))
        steps += [_step(_JUMP_IF_GREATER, group[-1][0], yes=len(tried)), *tried]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _partly() -> dict[str, list[bytes]]:
    """Steps that decide about the calls of `_PARTLY` by their arguments."""
    allow, refuse = _step(_RETURN, _ALLOW), _step(_RETURN, _REFUSE)

    def only(*values: int) -> list[bytes]:
        """Allowed if what is loaded is one of these."""
        return [step for v in values for step in _when(v, [allow])] + [refuse]

    # Truncating must be asked for with writing, which is what Landlock looks at. Linux
    # truncates under O_RDONLY too, and under 3, a mode without a name.
    writes = [_step(_AND, os.O_ACCMODE), *only(os.O_WRONLY, os.O_RDWR)]
    truncates = [*_when_set(os.O_TRUNC, writes), allow]
    signals = [_load(2), *_when_set(os.O_ASYNC, [refuse]), allow]
    # A pair of streams, which asyncio needs, leads nowhere; a datagram socket sends to
    # whatever address it is given.
    stream = [_load(1), _step(_AND, 0xF), *only(socket.SOCK_STREAM)]
    is_null = [*_when(0, [_load(2, high=True), *only(0)]), refuse]
    # An end by the limit of processor time is always our limit's.
    own_limits = [_load(1), *_when(_PROCESSOR_TIME, [_load(2), *is_null]), allow]
    refused = [step for value in _PRCTL_REFUSED for step in _when(value, [refuse])]
    return {
        "clone": [  # threads alone
            _load(0),
            *_when_set(_CLONE_NAMESPACES, [refuse]),
            *_when_set(_CLONE_THREAD, [allow]),
            refuse,
        ],
        "prctl": [_load(0), *refused, allow],
        "open": [_load(1), *truncates],
        "openat": [_load(2), *truncates],
        "fcntl": [_load(1), *_when(fcntl.F_SETFL, signals), *only(*_FCNTL)],
        "ioctl": [_load(1), *only(*_IOCTL)],
        "socketpair": [_load(0), *_when(socket.AF_UNIX, stream), refuse],
        "sched_setaffinity": [_load(0), *only(0)],  # 0 is itself
        "prlimit64": [_load(0), *_when(0, own_limits), refuse],
        "setrlimit": [_load(0), *_when(_PROCESSOR_TIME, [refuse]), allow],
    }


def _load(argument: int, *, high: bool = False) -> bytes:
    """The low half of an argument, or its high half."""
    return _step(_LOAD, _FIRST_ARGUMENT + 8 * argument + 4 * high)


def _when(value: int, steps: list[bytes]) -> list[bytes]:
    """Steps, which end by returning, for this value of what is loaded."""
    return [_step(_JUMP_IF_EQUAL, value, no=len(steps)), *steps]


def _when_set(mask: int, steps: list[bytes]) -> list[bytes]:
    """The same, if one of these bits is set."""
    return [_step(_JUMP_IF_SET, mask, no=len(steps)), *steps]


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)
