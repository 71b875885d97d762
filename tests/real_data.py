"""Where the real data sets lie; tests that need them skip where they are absent."""

import os
import pathlib

_DEFAULT = pathlib.Path(__file__).resolve().parents[1] / "../shared/data"
FOLDER = pathlib.Path(os.environ.get("HAPO_DATA_DIR", _DEFAULT))
