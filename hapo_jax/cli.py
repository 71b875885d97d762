"""What the programs share: flags, JAX's settings, and how a program ends."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from hapo_jax.config import arguments, check
from hapo_jax.system import (
    compile_ahead,
    compile_cache,
    distributed,
    errors,
    folders,
    interrupt,
    limits,
    streams,
    watch,
)
from hapo_jax.system.errors import Refused

_REFUSED = 2  # status of a program whose input cannot be used
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Experiment file, such as configs/countdown.py:method=dapo; --config.KEY=VALUE "
    "sets one of its keys.",
)
_overrides: list[tuple[str, str]] = []  # of the command line: (key, value)

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; resumed if it exists."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "With several processes: host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")


def run(
    main: Callable[[ConfigDict, str | None], None],
    *,
    required=("config", "workdir"),
    several_processes: bool = False,
):
    """Parses flags, sets JAX up and calls `main(config, workdir)`; see `start`.

    Args:
      main: the program.
      required: flags that must be given.
      several_processes: whether the program can run as several.
    """
    flags.mark_flags_as_required(required)

    def body(rest):
        if rest:
            raise app.UsageError(f"unexpected arguments: {' '.join(rest)}")
        folders.check("workdir", _WORKDIR.value, writes=True)
        found = override(config())
        check.check_alone(found)
        set_up_jax(found)
        if not several_processes:
            _refuse_several()
        with processes() if several_processes else contextlib.nullcontext():
            main(found, _WORKDIR.value)

    start(body)


def _refuse_several() -> None:
    """For a program whose processes would not know of each other."""
    if _NUM_PROCESSES.value is not None:
        raise Refused(
            f"--num_processes={_NUM_PROCESSES.value}: this program runs in one "
            "process; leave the flag out."
        )
    if distributed.environment_has_several():
        raise Refused(
            "this program runs in one process, and Slurm or a TPU pod has started "
            "several; start it on one host (srun --ntasks=1, or a slice of one host)."
        )


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the other processes, if there are any; inside, each ends when one does."""
    distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    compile_cache.of_process(jax.process_index())
    with watch.Watch(_status):
        if not distributed.is_first():
            # All read the same problems; process 0 says what is wrong with them.
            logging.getLogger("hapo_jax").setLevel(logging.WARNING)
            for name in ("hapo_jax.tasks", "hapo_jax.rollout.prompts"):
                logging.getLogger(name).setLevel(logging.ERROR)
        yield


def start(main: Callable[[list[str]], None]) -> None:
    """Parses flags and calls `main` with the arguments that are none.

    Input that is refused ends the program with its message alone and status 2, and so
    does what is no fault of the program, with status 1; any other exception keeps its
    traceback.
    """

    def guarded(argv):
        # What this package has to say is for the user; libraries say too much.
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("hapo_jax").setLevel(logging.INFO)
        streams.install()  # once absl has found the stream of its own log
        try:
            limits.prepare()
            main(argv[1:])
        except errors.Refused as error:
            _end(error, _REFUSED)
        except interrupt.Stopped as error:
            print(interrupt.stopped(error), flush=True)
            compile_ahead.leave(0)
        except errors.RunFailed as error:
            _end(error, 1)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags, those of absl and `--config.KEY=VALUE`; returns what is none."""
    found, rest = arguments.split(flags.FLAGS.read_flags_from_files(argv))
    _overrides[:] = found
    try:
        return flags.FLAGS(rest)
    except flags.Error as error:
        _end(f"{error}; --help lists the flags.", _REFUSED)


def _end(message: object, status: int) -> None:
    """Ends the program with a message alone."""
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _status(error: BaseException) -> int:
    """Of a program that this exception ends: whether trying again would be in vain."""
    if isinstance(error, interrupt.Stopped):
        return 0
    return _REFUSED if isinstance(error, errors.Refused) else 1


def config() -> ConfigDict | None:
    """The config of --config as its file has it, if it was given; see `override`."""
    return None if _CONFIG.value is None else arguments.load(_CONFIG.value)


def given() -> tuple[str, list[tuple[str, str]], str | None]:
    """--config, the (key, value) of each --config.KEY=VALUE, and --workdir."""
    return _CONFIG.value, [*_overrides], _WORKDIR.value


def override(config: ConfigDict) -> ConfigDict:
    """Sets what the command line's `--config.KEY=VALUE` say; returns the config.

    Raises:
      Refused: a key or a value cannot be; names the nearest key.
    """
    for key, value in _overrides:
        arguments.override(config, key, value)
    return config


def warn(config: ConfigDict) -> None:
    """Says what a resolved config may do and seldom means."""
    for caution in check.cautions(config):
        logging.getLogger("hapo_jax").warning("%s", caution)


def set_up_jax(config: ConfigDict) -> None:
    """Simulated devices and the compilation cache; before the first use of a device."""
    if config.mesh.cpu_devices > 1:
        # Of no effect where an accelerator is the default backend.
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)
    compile_cache.set_up()


def devices() -> str:
    """The devices in words, for the run's record."""
    first = jax.devices()[0]
    return f"{jax.device_count()} x {first.device_kind} ({first.platform})"
