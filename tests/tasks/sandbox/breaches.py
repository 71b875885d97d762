"""Programs that try to break a promise each, see `promises.py`.

A program that gets through prints "through"; what it does to others is looked for from
outside as well (`try_breaches.py`). Names in capitals stand for what belongs to the
test; `call` makes a system call by name and raises OSError.

`{WHO}` stands for process ids: programs with it are tried on a process of the user
and on the process of a rival program.
"""

# ruff: noqa: E501, programs have lines of their own

from typing import NamedTuple

PRELUDE = """
import array, ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
def call(name, *values):
    values = [ctypes.c_long(v) if isinstance(v, int) else v for v in values]
    return check(libc.syscall(ctypes.c_long(NUMBER[name]), *values))
def pipe_that_signals(who, number, own=None):
    reading, writing = os.pipe()
    own(reading) if own else fcntl.fcntl(reading, fcntl.F_SETOWN, who)
    fcntl.fcntl(reading, 10, number)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writing, b"x")
def message_to(address):
    # struct msghdr with an address and one byte
    name = ctypes.create_string_buffer(struct.pack("H", socket.AF_UNIX) + address)
    data = ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 1))
    header = struct.pack("QIxxxxQQQQi", ctypes.addressof(name), 2 + len(address), ctypes.addressof(vector), 1, 0, 0, 0)
    return ctypes.create_string_buffer(header + bytes(12)), (name, data, vector)
"""


class Breach(NamedTuple):
    """Attributes:
    promise: a name of `promises.PROMISES`.
    program: gets through, or raises.
    """

    promise: str
    program: str


def _all(promise: str, **programs: str) -> dict[str, Breach]:
    found = {}
    for name, program in programs.items():
        name = name.replace("_", " ")
        if "{WHO}" not in program:
            found[name] = Breach(promise, program)
            continue
        for who in ("VICTIM", "RIVAL"):
            found[f"{name}, {who}"] = Breach(promise, program.replace("{WHO}", who))
    return found


BREACHES: dict[str, Breach] = {
    **_all(
        "processes",
        fork="if os.fork() == 0: os._exit(0)",
        vfork="call('vfork')",
        clone="if call('clone', signal.SIGCHLD, 0, 0, 0, 0) == 0: os._exit(0)",
        clone3="if call('clone3', ctypes.create_string_buffer(88), 88) == 0: os._exit(0)",
        subprocess="import subprocess\nsubprocess.run(['/bin/true'], check=True)",
        posix_spawn="os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
        # What runs afterwards is /bin/echo, which says it.
        exec="os.execv('/bin/echo', ['echo', 'through'])",
        execveat="call('execveat', -100, b'/bin/true', 0, 0, 0)",
    ),
    **_all(
        "rights",
        becomes_root="os.setuid(0)\nassert os.getuid() == 0 and os.geteuid() == 0\nopen('/proc/1/environ').read()",
        user_namespace="check(libc.unshare(0x10000000))",
        mount_namespace="check(libc.unshare(0x20000))",
        thread_in_namespaces="call('clone', 0x10000 | 0x800 | 0x100 | 0x20000, 0, 0, 0, 0)",
        joins_a_namespace="call('setns', os.open('/proc/1/ns/mnt', 0), 0)",
        mounts="check(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))",
        opens_a_mount="call('fsopen', b'tmpfs', 0)",
        changes_the_root="os.chroot('/usr')",
        takes_capabilities="call('capset', struct.pack('Ii', 0x20080522, 0), struct.pack('IIIIII', 2**21, 2**21, 0, 0, 0, 0))",
        kernel_key="call('add_key', b'user', b'x', b'x', 1, -3)",
        keyring="call('keyctl', 0, -3, 1)",
        bpf="call('bpf', 0, ctypes.create_string_buffer(struct.pack('IIII', 2, 4, 4, 1) + bytes(64)), 48)",
        perf_events="call('perf_event_open', ctypes.create_string_buffer(struct.pack('IIQ', 1, 112, 1) + bytes(96)), 0, -1, -1, 0)",
        userfaultfd="call('userfaultfd', 1)",
        io_uring="call('io_uring_setup', 1, ctypes.create_string_buffer(120))",
        personality="call('personality', 0x0040000)",
        kernel_log="call('syslog', 10, 0, 0)",
        host_name="call('sethostname', b'x', 1)",
        calls_by_32_bit_numbers="assert os.uname().machine == 'x86_64'\npage = mmap.mmap(-1, 4096, prot=7)\npage.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\nassert ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0",
        calls_by_x32_numbers="assert check(libc.syscall(0x40000000 + 39)) > 0",
        core_scheduling="check(libc.prctl(62, 1, 0, 0, 0))",
    ),
    **_all(
        "limits",
        raises_a_limit="resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
        more_descriptors="kept = [os.dup(1) for _ in range(1000)]",
        much_memory="kept = bytearray(2**30)",
        much_mapped_memory="kept = mmap.mmap(-1, 2**30)",
        memory_without_an_address="os.memfd_create('x')",
        large_pipes="kept = [fcntl.fcntl(end, 1031, 2**20) for _ in range(8) for end in os.pipe()[:1]]",
        fills_the_disk="open('large', 'wb').write(bytes(2**26))",
        many_files="for number in range(10**4): open(f'f{number}', 'w').close()",
        much_output="sys.stdout.write('through' + 'x' * 2**23)\nsys.stdout.flush()",
        # Both would look like an end that others brought about.
        end_by_its_own_limit="resource.setrlimit(resource.RLIMIT_CPU, (0, 0))",
        end_by_prlimit="resource.prlimit(0, resource.RLIMIT_CPU, (0, 0))",
        end_by_a_timer="timer = ctypes.c_int()\ncall('timer_create', 1, ctypes.create_string_buffer(struct.pack('Qii', 0, 9, 0) + bytes(48)), ctypes.byref(timer))",
    ),
    **_all(
        "lifetime",
        outlives_the_launcher="check(libc.prctl(1, 0, 0, 0, 0))",
        outlasts_its_time="signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(60)",
    ),
    **_all(
        "reads",
        reads_a_file="assert open(FOLDER + '/kept').read() == 'kept'",
        reads_by_a_long_way="assert open('../' * 20 + FOLDER[1:] + '/kept').read()",
        lists_a_folder="assert 'kept' in os.listdir(FOLDER)",
        reads_accounts="assert open('/etc/passwd').read()",
        reads_by_a_link="os.symlink(FOLDER + '/kept', 'link')\nassert open('link').read()",
        reads_by_a_hard_link="os.link(FOLDER + '/kept', 'link')\nassert open('link').read()",
        reads_by_handle="handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128))\ncall('name_to_handle_at', -100, (FOLDER + '/kept').encode(), handle, ctypes.byref(ctypes.c_int()), 0)\nassert os.read(call('open_by_handle_at', os.open('/', 0), handle, 0), 4)",
        reads_by_openat2="how = ctypes.create_string_buffer(struct.pack('QQQ', 0, 0, 0))\nassert os.read(call('openat2', -100, (FOLDER + '/kept').encode(), how, 24), 4)",
        reads_an_environment="assert open('/proc/%d/environ' % {WHO}).read()",
        reads_a_disk="os.open('/dev/' + [n for n in os.listdir('/dev') if n[:2] in ('sd', 'vd')][0], 0)",
        reads_through_proc="path = os.open(FOLDER + '/kept', os.O_PATH)\nassert open(f'/proc/self/fd/{path}').read()",
    ),
    **_all(
        "writes",
        overwrites="open(FOLDER + '/kept', 'r+').write('!')",
        appends="open(FOLDER + '/kept', 'a').write('!')",
        makes_a_file="open(FOLDER + '/new', 'x').write('!')",
        makes_a_file_without_a_name="os.open(FOLDER, os.O_TMPFILE | os.O_RDWR)",
        opens_by_mode_3="fd = os.open(FOLDER + '/kept', 3)\nos.ftruncate(fd, 0)",
        removes="os.remove(FOLDER + '/kept')",
        renames="os.rename(FOLDER + '/kept', FOLDER + '/new')",
        exchanges="call('renameat2', -100, (FOLDER + '/kept').encode(), -100, (FOLDER + '/folder').encode(), 2)",
        links="os.link(FOLDER + '/kept', FOLDER + '/new')",
        makes_a_link="os.symlink('kept', FOLDER + '/new')",
        makes_a_folder="os.mkdir(FOLDER + '/new')",
        removes_a_folder="os.rmdir(FOLDER + '/folder')",
        makes_a_pipe="os.mkfifo(FOLDER + '/new')",
        makes_a_device="os.mknod(FOLDER + '/new', 0o20666, os.makedev(1, 3))",
        binds_a_socket="socket.socket(socket.AF_UNIX).bind(FOLDER + '/new')",
        writes_to_a_library="open(os.__file__, 'a').close()",
        writes_to_shared_memory="open('/dev/shm/hapo_jax_breach', 'w').close()",
    ),
    **_all(
        "truncation",
        read_and_truncate="os.open(FOLDER + '/kept', os.O_RDONLY | os.O_TRUNC)",
        mode_3_and_truncate="os.open(FOLDER + '/kept', 3 | os.O_TRUNC)",
        write_and_truncate="os.open(FOLDER + '/kept', os.O_WRONLY | os.O_TRUNC)",
        truncates_by_path="os.truncate(FOLDER + '/kept', 0)",
        creates_anew="os.close(call('creat', (FOLDER + '/kept').encode(), 0o666))",
        truncates_by_openat2="how = ctypes.create_string_buffer(struct.pack('QQQ', os.O_TRUNC, 0, 0))\ncall('openat2', -100, (FOLDER + '/kept').encode(), how, 24)",
    ),
    **_all(
        "metadata",
        changes_a_mode="os.chmod(FOLDER + '/kept', 0o600)",
        changes_a_mode_newly="call('fchmodat2', -100, (FOLDER + '/kept').encode(), 0o600, 0)",
        changes_the_mode_of_a_library="os.fchmod(os.open(os.__file__, 0), 0o644)",
        changes_an_owner="os.chown(FOLDER + '/kept', -1, os.getgid())",
        changes_times="os.utime(FOLDER + '/kept', (1, 1))",
        sets_an_attribute="os.setxattr(FOLDER + '/kept', 'user.x', b'x')",
        locks_a_library="fcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX | fcntl.LOCK_NB)",
        leases_a_library="fcntl.fcntl(os.open(os.__file__, 0), 1024, fcntl.F_RDLCK)",
        watches_a_folder="handle = check(libc.inotify_init())\ncheck(libc.inotify_add_watch(handle, b'/usr/lib', 2))",
        notices_in_a_folder="fcntl.fcntl(os.open('/usr/lib', 0), 1026, 1)",
    ),
    **_all(
        "network",
        connects="socket.create_connection(('127.0.0.1', PORT), 1)",
        connects_by_version_6="socket.create_connection(('::1', PORT), 1)",
        sends_a_datagram="socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        listens="socket.create_server(('127.0.0.1', 0))",
        raw_socket="socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        netlink="socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        packets="socket.socket(17, socket.SOCK_RAW, 3)",
        virtual_machine_socket="socket.socket(40, socket.SOCK_STREAM)",
        pair_of_another_family="call('socketpair', 30, 1, 0, ctypes.create_string_buffer(8))",
        name_server="socket.getaddrinfo('example.org', 80)\nsocket.socket()",
    ),
    **_all(
        "abstract",
        connects_to_an_abstract_socket="socket.socket(socket.AF_UNIX).connect(chr(0) + ABSTRACT)",
        sends_to_an_abstract_socket="socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', chr(0) + ABSTRACT + 'd')",
        sends_a_message_to_an_abstract_socket="pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nheader, kept = message_to(b'\\0' + ABSTRACT.encode() + b'd')\ncheck(libc.sendmsg(pair[0].fileno(), header, 0))",
        sends_by_a_stream_pair="socket.socketpair()[0].sendto(b'x', chr(0) + ABSTRACT + 'd')",
        sends_by_a_raw_pair="socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b'x', chr(0) + ABSTRACT + 'd')",
    ),
    **_all(
        "paths",
        connects_to_a_path="socket.socket(socket.AF_UNIX).connect(FOLDER + '/stream')",
        sends_to_a_path="socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', FOLDER + '/datagram')",
        sends_a_message_to_a_path="pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nheader, kept = message_to(FOLDER.encode() + b'/datagram')\ncheck(libc.sendmsg(pair[0].fileno(), header, 0))",
        sends_by_many_messages="pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nheader, kept = message_to(FOLDER.encode() + b'/datagram')\ncheck(libc.sendmmsg(pair[0].fileno(), header, 1, 0))",
        connects_a_pair="socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(FOLDER + '/datagram')",
    ),
    **_all(
        "signals",
        kills="os.kill({WHO}, 9)",
        kills_a_group="os.killpg(os.getpgid({WHO}), 0)",
        kills_a_thread="call('tkill', {WHO}, 9)",
        kills_a_thread_of_a_group="call('tgkill', {WHO}, {WHO}, 9)",
        queues_a_signal="call('rt_sigqueueinfo', {WHO}, 9, ctypes.create_string_buffer(struct.pack('iii', 9, 0, -1) + bytes(116)))",
        kills_by_descriptor="signal.pidfd_send_signal(os.pidfd_open({WHO}), 9)",
        stops_by_fcntl="pipe_that_signals({WHO}, signal.SIGSTOP)",
        kills_by_fcntl="pipe_that_signals({WHO}, signal.SIGKILL)",
        kills_by_fcntl_for_a_kind="pipe_that_signals({WHO}, signal.SIGKILL, lambda end: fcntl.fcntl(end, 15, struct.pack('ii', 1, {WHO})))",
        kills_by_ioctl="one, other = socket.socketpair()\nfcntl.ioctl(one, 0x8901, struct.pack('i', {WHO}))\nfcntl.fcntl(one, 10, 9)\nfcntl.ioctl(one, 0x5452, struct.pack('i', 1))\nother.send(b'x')",
        kills_by_ioctl_alone="one, other = socket.socketpair()\nfcntl.ioctl(one, 0x8902, struct.pack('i', {WHO}))\nfcntl.ioctl(one, 0x5452, struct.pack('i', 1))\nother.send(b'x')",
        urgent_data="one, other = socket.socketpair()\nfcntl.fcntl(one, fcntl.F_SETOWN, {WHO})\nother.send(b'x', socket.MSG_OOB)",
        kills_the_launcher="os.kill(os.getppid() or 10**6, 0)",
        kills_by_a_timer="timer = ctypes.c_int()\ncall('timer_create', 1, ctypes.create_string_buffer(struct.pack('Qiii', 0, 9, 4, {WHO}) + bytes(44)), ctypes.byref(timer))",
    ),
    **_all(
        "scheduling",
        lowers_a_limit="resource.prlimit({WHO}, resource.RLIMIT_NOFILE, (3, 3))",
        moves="os.sched_setaffinity({WHO}, {min(os.sched_getaffinity(0))})",
        lowers_a_priority="os.setpriority(os.PRIO_PROCESS, {WHO}, 19)",
        lowers_its_user="os.setpriority(os.PRIO_USER, os.getuid(), 19)",
        schedules="os.sched_setscheduler({WHO}, os.SCHED_BATCH, os.sched_param(0))",
        schedules_by_attributes="call('sched_setattr', {WHO}, ctypes.create_string_buffer(struct.pack('IIQiI', 48, 3, 0, 0, 0) + bytes(24)), 0)",
        delays_input="call('ioprio_set', 1, {WHO}, 3 << 13)",
        moves_pages="call('migrate_pages', {WHO}, 8, ctypes.create_string_buffer(b'\\1' + bytes(7)), ctypes.create_string_buffer(b'\\1' + bytes(7)))",
    ),
    **_all(
        "memory",
        traces="call('ptrace', 16, {WHO}, 0, 0)",
        seizes="call('ptrace', 0x4206, {WHO}, 0, 0)",
        reads_memory="data = ctypes.create_string_buffer(8)\nhere = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(data), 8))\ncall('process_vm_readv', {WHO}, here, 1, here, 1, 0)",
        opens_memory="open('/proc/%d/mem' % {WHO}, 'rb')",
        reads_maps="assert open('/proc/%d/maps' % {WHO}).read()",
        takes_a_descriptor="call('pidfd_getfd', os.pidfd_open({WHO}), 0, 0)",
        compares="call('kcmp', {WHO}, {WHO}, 1, 0, 0)",
        advises="call('process_madvise', os.pidfd_open({WHO}), ctypes.create_string_buffer(16), 1, 4, 0)",
    ),
    **_all(
        "sharing",
        makes_shared_memory="call('shmget', 0, 4096, 0o1600)",
        reads_shared_memory="check(libc.shmat(SHARED, None, 0))",
        removes_shared_memory="call('shmctl', SHARED, 0, 0)",
        counts_down_a_semaphore="call('semop', SEMAPHORE, struct.pack('Hhh', 0, 1, 0), 1)",
        removes_a_semaphore="call('semctl', SEMAPHORE, 0, 0, 0)",
        sends_to_a_queue="call('msgsnd', QUEUE, ctypes.create_string_buffer(struct.pack('q', 1) + b'x'), 1, 0)",
        removes_a_queue="call('msgctl', QUEUE, 0, 0)",
        makes_a_named_queue="call('mq_open', b'hapo_jax_breach', os.O_CREAT | os.O_RDWR, 0o600, 0)",
        removes_a_named_queue="try: call('mq_unlink', b'hapo_jax_breach')\nexcept FileNotFoundError: pass",
    ),
    **_all(
        "threads",
        thread_bomb="kept = [threading.Thread(target=time.sleep, args=(9,), daemon=True) for _ in range(40)]\nthreading.stack_size(2**16)\n[thread.start() for thread in kept]\nsys.stdout.write('through')\nsys.stdout.flush()\nos._exit(0)",
    ),
    **_all(
        "names",
        looks_at_a_file="assert os.stat(FOLDER + '/kept').st_size == 4",
        asks_for_access="assert os.access(FOLDER + '/kept', os.F_OK)",
        reads_a_link="assert os.readlink(FOLDER + '/link')",
    ),
    **_all(
        "others",
        looks_for_a_process="os.stat(f'/proc/{VICTIM}')",
        asks_for_a_session="assert os.getsid(VICTIM)",
        asks_for_a_priority="os.getpriority(os.PRIO_PROCESS, VICTIM)",
    ),
    **_all(
        "folder",
        finds_no_folder="import tempfile\ntry:\n    open('x', 'w').write('x')\n    tempfile.TemporaryFile().close()\nexcept OSError: pass\nelse: raise AssertionError",
    ),
}
