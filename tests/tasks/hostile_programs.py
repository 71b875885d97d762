"""Programs that would pass, do harm or stay, if they could.

FUNCTIONS ought to define `square`; SCRIPTS ought to print the square of the number on
standard input. None does its work: each passes only if its trick does, and those that
reach outside give the right answer only after they got there. `OUTSIDE` stands for a
folder that belongs to the test.
"""

# ruff: noqa: E501, programs have lines of their own

_RIGHT = "def square(n): return n * n\n"
_AFTER = "\ndef square(n):\n    {}\n    return n * n\n"


def _breach(code: str, setup: str = "") -> str:
    """Right only if `code` raises nothing."""
    return setup + _AFTER.format(code.replace("\n", "\n    "))


# Frames as `wire.py` writes them, for programs that know it.
_FRAME = """
import json, os, struct
def frame(message):
    data = json.dumps(message).encode()
    return struct.pack("!I", len(data)) + data
"""

FORGERIES = {
    "leaves before the tests": "import os; os._exit(0)",
    "leaves in the tests": "import os\ndef square(n): os._exit(0)",
    "exits before the tests": "import sys; sys.exit(0)",
    "exits in the tests": "import sys\ndef square(n): sys.exit(0)",
    "raises SystemExit": "def square(n): raise SystemExit",
    "raises KeyboardInterrupt": "def square(n): raise KeyboardInterrupt",
    "raises AssertionError": "def square(n): raise AssertionError",
    "raises StopIteration": "def square(n): raise StopIteration",
    "raises an exception that lies": """
class Fine(Exception):
    def __str__(self): return '{"value": 49}'
def square(n): raise Fine
""",
    "equal to everything": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    __hash__ = None
def square(n): return Equal()
""",
    "number equal to everything": """
class Equal(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def square(n): return Equal(0)
""",
    "float equal to everything": """
class Equal(float):
    def __eq__(self, other): return True
    __hash__ = float.__hash__
def square(n): return Equal("nan")
""",
    "text equal to everything": """
class Equal(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def square(n): return Equal("49")
""",
    "type equal to everything": """
class Meta(type):
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class Equal(metaclass=Meta): pass
def square(n): return Equal
""",
    "pretends to be an int": """
class Equal:
    __class__ = int
    def __eq__(self, other): return True
    def __int__(self): return 49
def square(n): return Equal()
""",
    "mock.ANY": "from unittest.mock import ANY\ndef square(n): return ANY",
    "NotImplemented": "def square(n): return NotImplemented",
    "a function": "def square(n): return lambda: n * n",
    "an endless iterator": "import itertools\ndef square(n): return itertools.count()",
    "patches assert": """
import builtins
builtins.AssertionError = type("Never", (BaseException,), {})
def square(n): return 0
""",
    "patches builtins": """
import builtins
for name in ("isinstance", "all", "any", "bool", "abs"):
    setattr(builtins, name, lambda *a, **k: True)
def square(n): return 0
""",
    "patches sys.exit and os._exit": """
import os, sys
sys.exit = os._exit = lambda *a: None
def square(n): return 0
""",
    "patches the operators": """
import operator
operator.eq = operator.is_ = lambda a, b: True
def square(n): return 0
""",
    "patches int in C": """
import ctypes
offset = 25 * ctypes.sizeof(ctypes.c_void_p)  # tp_richcompare
like = ctypes.CFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)
always = like(lambda a, b, op: True)
ctypes.c_void_p.from_address(id(int) + offset).value = ctypes.cast(always, ctypes.c_void_p).value
def square(n): return 0
""",
    "defines the tests anew": "def check(f): return True\ncandidate = check\nsquare = abs",
    "registers at exit": """
import atexit, os
atexit.register(lambda: os._exit(0))
def square(n): return 0
""",
    "hooks exceptions": """
import sys, os
sys.excepthook = lambda *a: os._exit(0)
def square(n): return 0
""",
    "traces the tests away": """
import sys
def trace(frame, event, argument):
    frame.f_trace_lines = False
    return trace
sys.settrace(trace)
sys.setprofile(trace)
def square(n): return 0
""",
    "walks the frames": """
import sys
def square(n):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, dict) and "passed" in value: value["passed"] = True
            if isinstance(value, str) and "assert square" in value:
                return int(value.split("square(%d) == " % n)[1].split()[0])
        frame = frame.f_back
    return 0
""",
    "searches memory for the tests": """
import gc
def square(n):
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            for value in list(thing.values()):
                if isinstance(value, str) and "assert " + "square(" in value:
                    return int(value.split("square(%d) == " % n)[1].split()[0])
    return 0
""",
    "searches the modules for the tests": """
import sys
def square(n):
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()):
            if isinstance(value, str) and "square(%d) == " % n in value:
                return int(value.split("square(%d) == " % n)[1].split()[0])
    return 0
""",
    "searches every file": """
import os
def square(n):
    for top in ("/tmp", "OUTSIDE", "/proc", "/dev/shm", "/var/tmp"):
        for folder, _, names in os.walk(top):
            for name in names:
                try: text = open(os.path.join(folder, name), errors="replace").read(10**6)
                except OSError: continue
                if "square(%d) == " % n in text:
                    return int(text.split("square(%d) == " % n)[1].split()[0])
    return 0
""",
    "writes a verdict everywhere": _FRAME
    + """
for number in range(64):
    try: os.write(number, frame({"passed": True, "detail": ""}))
    except OSError: pass
def square(n): return 0
""",
    "writes answers ahead": _FRAME
    + """
for number in range(3, 64):
    try: os.write(number, frame({"value": True}) * 100)
    except OSError: pass
def square(n): return 0
""",
    "writes garbage": """
import os
for number in range(3, 64):
    try: os.write(number, b"\\xff" * 100)
    except OSError: pass
""",
    "announces a long message": """
import os
for number in range(3, 64):
    try: os.write(number, b"\\x7f\\xff\\xff\\xff")
    except OSError: pass
""",
    "closes everything": "import os\nos.closerange(0, 1024)\n" + _RIGHT,
    "patches the wire": """
import sys
for module in list(sys.modules.values()):
    for name in ("encode", "decode", "_raised"):
        if hasattr(module, name): setattr(module, name, lambda *a: True)
def square(n): return 0
""",
    "nested without end": "x = []\nfor _ in range(10**6): x = [x]\ndef square(n): return x",
    "too long to send": "def square(n): return 'x' * (64 * 2**20)",
    "half an answer": "def square(n): return n * n if n > 0 else None",
    "NUL bytes": "def square(n): return n * n\0",
    "no Python": "Here is the solution: square it.",
    "lone surrogates": "square = '\ud800'",
}

RUNAWAYS = {
    "loops": "while True: pass",
    "loops in a call": "def square(n):\n    while True: pass",
    "loops through signals": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "sleeps": "import time\ntime.sleep(1e6)",
    "waits for a lock": "import threading\nthreading.Lock().acquire()\nthreading.Event().wait()",
    "waits in a thread": """
import threading, time
threading.Thread(target=time.sleep, args=(1e6,)).start()
""",
    "one long call of C": "9 ** 9 ** 9",
    "a regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "recurses": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "recurses in C": "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    "compiles for ever": "compile('(' * 10**6 + ')' * 10**6, '', 'eval')",
    "takes memory": "x = bytearray(2**40)",
    "takes memory bit by bit": "x = []\nwhile True: x.append(bytearray(2**20))",
    "takes mapped memory": "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 2**26))",
    "catches MemoryError": """
x = []
while True:
    try: x.append(bytearray(2**22))
    except MemoryError: pass
""",
    "floods the output": "while True: print('x' * 10**6)",
    "floods the descriptors": """
import os
while True:
    for number in (1, 2): os.write(number, b"x" * 2**16)
""",
    "holds the launcher": """
import ctypes, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
time.sleep(1e6)
""",
    "stops itself": "import os, signal\nwhile True:\n    os.kill(0, signal.SIGSTOP)",
    "aborts": "import os\nos.abort()",
    "reads address zero": "import ctypes\nctypes.string_at(0)",
    "overwrites its memory": "import ctypes\nctypes.memset(id(int), 255, 4096)",
}

BREACHES = {
    "forks": _breach("import os\nif os.fork() == 0: os._exit(0)"),
    "fork bomb": _breach("import os\nwhile True: os.fork()"),
    "fork bomb that catches": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "daemon": _breach("""import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(1e6)
    os._exit(0)"""),
    "subprocess": _breach("import subprocess\nsubprocess.run(['true'], check=True)"),
    "shell": _breach("import os\nassert os.system('true') == 0"),
    "becomes a shell": _breach("import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])"),
    "multiprocessing": _breach(
        "import multiprocessing as m\np = m.get_context('fork').Process(target=print)\n"
        "p.start(); p.join()\nassert p.exitcode == 0"
    ),
    "clones by number": _breach(
        "import ctypes\nassert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0"
    ),
    "thread bomb": _breach(
        "import threading, time\n"
        "for _ in range(1000): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    ),
    "deletes outside": _breach("import shutil\nshutil.rmtree('OUTSIDE')"),
    "deletes everything": _breach(
        "import os\nfor n in os.listdir('OUTSIDE'): os.remove('OUTSIDE/' + n)"
    ),
    "writes outside": _breach("open('OUTSIDE/kept', 'w').write('!')"),
    "adds outside": _breach("open('OUTSIDE/new', 'w').write('!')"),
    "reads outside": _breach("assert open('OUTSIDE/kept').read()"),
    "writes to the library": _breach("import os\nopen(os.__file__, 'a').close()"),
    "links outside": _breach(
        "import os\nos.symlink('OUTSIDE', 'link')\nopen('link/new', 'w').close()"
    ),
    "climbs out": _breach("assert open('../' * 20 + 'OUTSIDE/kept').read()"),
    "changes modes": _breach("import os\nos.chmod('/usr', 0o777)"),
    "writes to /dev/shm": _breach("open('/dev/shm/hapo_jax_left', 'w').close()"),
    "writes to /var/tmp": _breach("open('/var/tmp/hapo_jax_left', 'w').close()"),
    "fills the disk": _breach("open('x', 'wb').write(bytes(2**28))"),
    "many files": _breach("for i in range(10**4): open(f'f{i}', 'w').close()"),
    "opens a disk": _breach(
        "import os\nos.open('/dev/' + [n for n in os.listdir('/dev') if n[:2] in ('sd', 'vd')][0], 0)"
    ),
    "reads the environment": _breach("open('/proc/1/environ').read()"),
    "sees processes": _breach(
        "import os\nassert [n for n in os.listdir('/proc') if n.isdigit()]"
    ),
    "opens a socket": _breach("import socket\nsocket.socket()"),
    "connects": _breach(
        "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)"
    ),
    "listens": _breach("import socket\nsocket.create_server(('', 0))"),
    "opens a Unix socket": _breach("import socket\nsocket.socket(socket.AF_UNIX)"),
    "opens a raw socket": _breach("import socket\nsocket.socket(17, 3)"),
    "asks a name server": _breach(
        "import socket\nsocket.getaddrinfo('example.org', 80)"
    ),
    "fetches": _breach(
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:80', timeout=1)"
    ),
    "kills its parent": _breach("import os\nos.kill(os.getppid(), 9)"),
    "kills everybody": _breach("import os\nos.kill(-1, 9)"),
    "traces its parent": _breach(
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid() or 1, 0, 0) == 0"
    ),
    "becomes root": _breach("import os\nos.setuid(0)\nassert os.getuid() == 0"),
    "new user namespace": _breach(
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"
    ),
    "mounts": _breach(
        "import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0"
    ),
    "changes the root": _breach("import os\nos.chroot('/usr')"),
    "raises its limits": _breach(
        "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY,) * 2)"
    ),
    "memory without an address": _breach("import os\nos.memfd_create('x')"),
    "shared memory": _breach(
        "import ctypes\nassert ctypes.CDLL(None).shmget(1, 4096, 0o1666) >= 0"
    ),
    "io_uring": _breach(
        "import ctypes\n"
        "assert ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) >= 0"
    ),
    "kernel keys": _breach(
        "import ctypes\n"
        "assert ctypes.CDLL(None).syscall(248, b'user', b'x', b'x', 1, -3) >= 0"
    ),
    "outlives the launcher": _breach(
        "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0"
    ),
}

FUNCTIONS = {**FORGERIES, **RUNAWAYS, **BREACHES}

SCRIPTS = {
    "prints nothing": "pass",
    "echoes": "print(input())",
    "prints everything": "for i in range(10**6): print(i)",
    "right but too much": "n = int(input()); print(n * n); print(n)",
    "right and then fails": "n = int(input()); print(n * n); raise SystemExit(3)",
    "right and then loops": "n = int(input()); print(n * n, flush=True)\nwhile True: pass",
    "closes its output and loops": "import os\nprint(49, flush=True); os.close(1)\nwhile True: pass",
    "reads on": "import sys\nwhile True: sys.stdin.readline()",
    "writes into its input": "import os\nos.write(0, b'49')",
    "rewinds": "import os\nos.lseek(0, 10**6, 0); print(open(0, 'rb').read())",
    **{f"script that {name}": source for name, source in RUNAWAYS.items()},
}
