"""Tests of rivals, a file each. `GOLDEN` of a file are its adapters of archives."""

import importlib
import pkgutil


def golden_adapters():
    """{function of the archives: adapter} of all files."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found |= getattr(module, "GOLDEN", {})
    return found
