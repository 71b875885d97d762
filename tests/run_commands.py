"""Runs commands one after another in one process, which starts and compiles once.

    python -m tests.run_commands RESULTS < COMMANDS

COMMANDS are JSON lines, each a list: the module of a program, and its arguments.
RESULTS gets a JSON line for each: the status that it ended with, and its seconds.
"""

import importlib
import json
import sys
import time
import traceback

from absl.testing import flagsaver


def run(module: str, *arguments: str) -> int:
    """What the program behind the module, or its command, ends with."""
    program = importlib.import_module(module)
    sys.argv = [module, *arguments]
    print(f"\n$ {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    try:
        with flagsaver.flagsaver():  # each program begins without the others' flags
            program.run()
    except SystemExit as end:
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """See the module's docstring."""
    with open(sys.argv[1], "w") as results:
        for line in sys.stdin:
            began = time.monotonic()
            status = run(*json.loads(line))
            results.write(json.dumps([status, time.monotonic() - began]) + "\n")
            results.flush()


if __name__ == "__main__":
    main()
