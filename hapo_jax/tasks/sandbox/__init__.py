"""Runs programs that nobody has read, and believes nothing they say.

Who does what:

  host.py      in the grading process: starts the launcher, starts and ends programs
  trials.py    in the grading process: one program on one kind of test
  launcher.py  a process of its own: forks a confined process per program
  confine.py   what confines it; kernel.py, landlock.py, seccomp.py: system calls
  promises.py  what that promises
  guest.py     in the confined process: the program itself, or its functions on call
  habits.py    there too: /dev/stdin and larger stacks, whatever confines it
  judge.py     in another confined process: the tests, which call those functions
  wire.py      plain values as JSON between them

**A program keeps to itself.** It is one process and can start no other (`fork` and
`exec` are refused), with limits on processor time, wall clock, address space, output,
files and their size. It is no longer root if we are, has no network, and sends no
signals; its environment holds no variable of the user's. One of two ways of confinement
is in force; the host says which, and `promises.py` what each is worth:

  namespaces  user, PID, mount, network and IPC namespaces. The program sees a
              read-only tree with Python and the system's libraries, and an empty
              /tmp in memory, which is where it runs. /proc, the user's files and other
              processes do not exist for it. The end of the process ends its PID
              namespace and its mounts.
  landlock    where namespaces are not allowed (many containers): the kernel's Landlock
              lets it read Python and the system's libraries and write nothing; it is
              in /tmp and can neither read nor change what is there. All that the
              kernel's version of Landlock knows is handled. If we are root, each
              program is a user of its own.

The system-call filter (`seccomp.py`) is there in both, and closes what an older version
of Landlock leaves open. Where neither works, nothing runs: that is an error.

**Nobody else makes a verdict.** A program whose process was killed or stopped from
outside has none (`host.NoVerdict`); what it does to itself, and our limits, are told
from that by the launcher.

**A program cannot forge a verdict**, because verdicts are not made where it runs. Its
process never holds an expected output or a test. The grading process compares what it
prints. What it returns is decoded and compared in a second process, under the same
limits. Where the tests are Python code, they run in this second process, whose
`candidate` sends arguments to the program's process and gets plain values back:
numbers, texts, lists, never objects with methods of their own. So `os._exit(0)`,
patched builtins, an `__eq__` that is always true, frames and memory searched for
answers change nothing outside the program's own process.

What this does not protect from: errors of the kernel; what can be learnt from timing or
caches; answers that are guessed or special-cased from the examples in the prompt.
"""
