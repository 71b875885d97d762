"""The system-call filter of a confined program, in the kernel's BPF.

What a program that computes needs is allowed. Refused with "not permitted": new
processes (threads are none), other programs, sockets, signals, other processes' memory,
namespaces, mounts, capabilities, kernel keys, shared memory that no limit counts, and
changes of owners and modes. Refused with "no such call", so that libraries fall back:
`clone3`, `io_uring`, and calls newer than this table.

Sources: seccomp(2), <linux/filter.h>, <linux/audit.h>, <asm/unistd.h>.
"""

import ctypes
import errno
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
    "sched_setattr": (314, 274),
    # sockets; a socketpair leads nowhere and asyncio needs one
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
    "fanotify_init": (300, 262),
    # memory beyond the limit of the address space
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # changes to files that Landlock's first version does not know
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
_UNKNOWN = {"clone3": (435, 435), "io_uring_setup": (425, 425)}
_CLONE = (56, 220)
_PRCTL = (157, 167)
_NEWEST = 456  # futex_requeue, Linux 6.7; 32-bit calls on x86-64 lie far above
_AUDIT_ARCHITECTURE = (0xC000003E, 0xC00000B7)
_CLONE_THREAD = 0x10000

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_NO_SUCH_CALL = 0x00050000 | errno.ENOSYS

# Where things stand in the kernel's `struct seccomp_data`
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _JUMP_IF_SET, _RETURN = (
    0x20,
    0x15,
    0x25,
    0x45,
    6,
)


def install() -> None:
    """Puts this process under the filter, for ever; needs PR_SET_NO_NEW_PRIVS."""
    program = _program()
    code = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    description = Filter(len(program) // 8, ctypes.addressof(code))
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(description))


def _program() -> bytes:
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
    for table, answer in ((_REFUSED, _REFUSE), (_UNKNOWN, _NO_SUCH_CALL)):
        for numbers in table.values():
            if numbers[here] is not None:
                steps.append(_step(_JUMP_IF_EQUAL, numbers[here], no=1))
                steps.append(_step(_RETURN, answer))
    # A clone must be a thread.
    steps += [
        _step(_JUMP_IF_EQUAL, _CLONE[here], no=4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_IF_SET, _CLONE_THREAD, yes=1),
        _step(_RETURN, _REFUSE),
        _step(_RETURN, _ALLOW),
    ]
    # It must not part its life from the launcher's, nor open its memory to others.
    steps += [
        _step(_JUMP_IF_EQUAL, _PRCTL[here], no=4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_IF_EQUAL, kernel.PR_SET_PDEATHSIG, no=1),
        _step(_RETURN, _REFUSE),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)
