"""What each way of confinement promises about a program, for each kind of user.

One table, from which the line at the start and `docs/sandbox.md` are made, and which
`tests/tasks/sandbox/test_promises.py` tries to break in every cell.

A cell is one of

  yes      the kernel's rules keep the promise, and the system-call filter does as well
           where a call could break it
  filter   the filter alone keeps it
  no       it is not promised
"""

from typing import NamedTuple

YES, FILTER, NO = "yes", "filter", "no"


class Promise(NamedTuple):
    """One promise.

    Attributes:
      text: "a program ..."
      namespaces: cell under namespaces.
      landlock: the version of Landlock from which on its rules keep the promise too; 0
        if the filter alone does; None if it is not promised.
      as_root: cell under Landlock when started by root, whose programs get a user of
        their own each; None if it makes no difference.
    """

    text: str
    namespaces: str
    landlock: int | None
    as_root: str | None = None


PROMISES = {
    "processes": Promise("starts no process and no other program", FILTER, 0),
    "rights": Promise(
        "gains no rights: no user, capability, namespace, mount, kernel key", YES, 1
    ),
    "limits": Promise(
        "keeps to its limits: time, memory, output, files and their size", YES, 1
    ),
    "lifetime": Promise("ends with its grader", YES, 1),
    "reads": Promise(
        "reads no file but Python's, the system's libraries and its own", YES, 1
    ),
    "writes": Promise("makes, changes, moves and removes no file of others", YES, 1),
    "truncation": Promise("empties no file of others", YES, 3),
    "metadata": Promise(
        "changes no owner, mode, time, attribute or lock of a file", FILTER, 0
    ),
    "network": Promise("reaches no network", YES, 4),
    "abstract": Promise("sends to no abstract Unix socket", YES, 6),
    "paths": Promise("sends to no Unix socket that has a path", YES, 0),
    "signals": Promise("sends no signal to another process", YES, 6),
    "scheduling": Promise(
        "changes no limit, priority or processor of another process", YES, 0, YES
    ),
    "memory": Promise("neither reads nor traces another process", YES, 1),
    "sharing": Promise(
        "shares no memory, semaphore or queue with another process", YES, 0
    ),
    "threads": Promise("starts no more threads than it may", YES, None, YES),
    "names": Promise("cannot find out names, sizes and times of your files", YES, None),
    "others": Promise("cannot find out which other processes there are", YES, None),
    "folder": Promise("has a folder for temporary files", YES, None),
}
# Versions of Landlock between which no cell changes: (first, last).
VERSIONS = ((6, None), (4, 5), (3, 3), (1, 2))


def cell(name: str, way: str, version: int, *, root: bool) -> str:
    """What a way promises.

    Args:
      name: of a promise.
      way: a name of `confine.WAYS`.
      version: of Landlock, if that is the way.
      root: whether root starts the programs, or an ordinary user.
    """
    promise = PROMISES[name]
    if way == "namespaces":
        return promise.namespaces
    if root and promise.as_root is not None:
        return promise.as_root
    if promise.landlock is None:
        return NO
    return YES if 0 < promise.landlock <= version else FILTER


def describe(way: str, version: int, *, root: bool) -> str:
    """Which confinement is in force and what it does not promise, in a line."""
    cells = {name: cell(name, way, version, root=root) for name in PROMISES}
    found = {
        kind: "; ".join(PROMISES[n].text for n, c in cells.items() if c == kind)
        for kind in (NO, FILTER)
    }
    number = f" (version {version})" if way == "landlock" else ""
    said = (
        f"Programs are confined by {way}{number} and a system-call filter, see "
        f"docs/sandbox.md. It is the filter alone by which a program {found[FILTER]}."
    )
    return said + (f" Not promised is that it {found[NO]}." if found[NO] else "")


def table() -> str:
    """All promises, in Markdown."""
    columns = [("namespaces", "namespaces", 0)]
    for first, last in VERSIONS:
        span = {None: f"{first}+", first: f"{first}"}.get(last, f"{first}–{last}")
        columns.append((f"Landlock {span}", "landlock", first))
    lines = [
        ["a program …", *(title for title, _, _ in columns), "neither"],
        ["---"] * (len(columns) + 2),
    ]
    for name, promise in PROMISES.items():
        cells = []
        for _, way, version in columns:
            root = cell(name, way, version, root=True)
            ordinary = cell(name, way, version, root=False)
            cells.append(root if root == ordinary else f"{root} / {ordinary}")
        lines.append([promise.text, *cells, "does not run"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
