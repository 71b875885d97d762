"""The numbers of the system-call filter are those of the kernel's own tables."""

import pathlib
import re
import sys

import pytest

from hapo_jax.tasks.sandbox import kernel, seccomp

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confines on Linux alone"
)
# The tables of x86-64 and arm64; which of them are installed depends on the machine.
HEADERS = (
    ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    ("/usr/include/asm-generic/unistd.h",),
)
DEFINITION = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")


@pytest.mark.parametrize("architecture", [0, 1])
def test_the_numbers_are_the_kernels(architecture):
    paths = [pathlib.Path(path) for path in HEADERS[architecture]]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip(f"no kernel headers: {paths[0]}")
    numbers = {n: int(v) for n, v in DEFINITION.findall(path.read_text())}
    tables = [seccomp._REFUSED, seccomp._UNKNOWN, kernel._NUMBERS, seccomp._PARTLY]
    for table in tables:
        for name, ours in table.items():
            # Headers may be older than the filter, and then know fewer calls.
            if name in numbers or ours[architecture] is None:
                assert numbers.get(name) == ours[architecture], name


def test_a_filter_fits_the_kernels_bound():
    code = seccomp.build()
    assert len(code) % 8 == 0
    assert len(code) // 8 <= 4096
