"""Code of a user's own, which a config names as `package.module[:function]`."""

import importlib
from types import ModuleType

from hapo_jax.system.errors import Refused

_REMEDY = "install its package, or put its folder on PYTHONPATH"


def module(key: str, name: str) -> ModuleType:
    """Imports the module of a name, which is all before its colon.

    Args:
      key: where the name stands, for messages.
      name: `package.module` or `package.module:function`.

    Raises:
      Refused: there is no such module. What it raises itself keeps its traceback.
    """
    path = name.partition(":")[0]
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # a module that it imports is missing
        raise Refused(
            f"{key}={name!r}: there is no module {error.name!r}; {_REMEDY}."
        ) from None
