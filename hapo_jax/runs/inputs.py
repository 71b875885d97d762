"""What a run reads anew whenever it is resumed, as checksums in its `inputs.json`.

A checkpoint holds the training state. Problems, the tokenizer, the chat template and
the policy that a KL term refers to are read again from where they were, and may have
changed there: then half of the run would be about other prompts, or pulled to another
reference, and no number would say so. So a run notes what it has read, and goes on with
the same alone. What counts is what comes out of the files: the rows of tokens, the gold
answers, what each token id stands for, sizes, weights. The files' own checksums only
serve to say which of them has changed.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hapo_jax.runs import evaluations
from hapo_jax.runs import records as records_lib
from hapo_jax.system import user_files
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.runs import fingerprint
from hapo_jax.model import huggingface
from hapo_jax.system import distributed
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout.demonstrations import Demonstrations
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks, math_sets

_log = logging.getLogger(__name__)

NAME = "inputs.json"
# Input → path → checksum. Not compared, but told where something else differs.
_FILES = evaluations.FILES
_MODEL = "model.path"
# Fields of a ModelConfig: one is a limit, one is of new models.
_NO_PART_IN_NUMBERS = ("max_positions", "init_std")

# What was read → what is known of it, plain JSON. Keys `crc …` hold checksums.
Inputs = dict[str, dict[str, Any]]


def of_run(
    config: ConfigDict,
    policy: Policy,
    prompts: PromptSet,
    held_out: Sequence[tuple[EvalSet, PromptSet]],
    reference_params=None,
    demonstrations: Demonstrations | None = None,
) -> Inputs:
    """The inputs of a run of hapo-train.

    Args:
      config, policy: the run's.
      prompts: the training problems.
      held_out: the evaluation's sets, from `sampling.read_sets`.
      reference_params: as they were loaded, or None without a KL term.
      demonstrations: beside the rollout, if there are any.
    """
    found = of_policy(policy, weights=True)
    found["task.train"] = prompts.checksums()
    _add_files(found, "task.train", _data(config.task.train))
    if config.data.exclude_ids:
        flags = data_checks.flag_files(config.data.exclude_ids.split(","))
        _add_files(found, "data.exclude_ids", flags)
    add_sets(found, held_out)
    if demonstrations is not None:
        part = "task.demonstrations"
        _add_demonstrations(found, part, config.task.demonstrations, demonstrations)
    if reference_params is not None:
        # To the bit, as the loss depends on it. In the type that layers compute in,
        # which differs where a run goes on on other hardware.
        mark = fingerprint.of_weights(reference_params)
        found["reference policy"] = {f"crc values in {policy.dtype.name}": mark}
    return _plain(found)


def of_policy(policy: Policy, *, weights: bool) -> Inputs:
    """What a policy's folder says: sizes, tokenizer, and perhaps a sample of weights.

    Args:
      policy: its folder is `model.path`, if it has one.
      weights: whether they will be read from there.
    """
    tokenizer = policy.tokenizer
    found: Inputs = {
        "model": {
            key: value
            for key, value in dataclasses.asdict(policy.config).items()
            if key not in _NO_PART_IN_NUMBERS
        },
        "tokenizer": {
            "number of ids": tokenizer.vocab_size,
            "crc entries": tokenizer.fingerprint(),
            "stop_ids": tokenizer.stop_ids,
            "pad_id": tokenizer.pad_id,
        },
    }
    _add_files(found, _MODEL, tokenizer.files())
    if weights and policy.source:
        # A run that has checkpoints may do without them; else reading them will fail.
        with contextlib.suppress(Refused):
            _add_weights(found, pathlib.Path(policy.source))
    return _plain(found)


def _add_weights(found: Inputs, folder: pathlib.Path) -> None:
    """Adds a sample of the weights; how tensors are spread over files plays no part."""
    files = huggingface.sample_weights(folder)
    tensors = {name: mark for marks in files.values() for name, mark in marks.items()}
    found["weights"] = {"crc sampled values": _crc(tensors)}
    found[_FILES]["weights"] = {
        str(folder / file): _crc(marks) for file, marks in files.items()
    }


def of_sft(
    config: ConfigDict,
    policy: Policy,
    demonstrations: Mapping[str, Demonstrations],
) -> Inputs:
    """The inputs of a run of hapo-sft.

    Args:
      config, policy: the run's.
      demonstrations: under `train` and `test`.
    """
    found = of_policy(policy, weights=True)
    for name, shown in demonstrations.items():
        _add_demonstrations(found, f"task.{name}", config.task[name], shown)
    return _plain(found)


def _add_demonstrations(
    found: Inputs, part: str, options: ConfigDict, demonstrations: Demonstrations
) -> None:
    texts, rows = demonstrations
    found[part] = prompts_lib.checksums(
        prompts=[d.prompt for d in texts],
        completions=[d.completion for d in texts],
        tokens=np.concatenate([rows.prompt_tokens, rows.completion_tokens], axis=1),
    )
    _add_files(found, part, _data(options))


def add_sets(found: Inputs, sets: Iterable[tuple[EvalSet, PromptSet]]) -> None:
    """Adds evaluation sets; one of other options is another set to `differences`."""
    for eval_set, prompts in sets:
        part = _part(eval_set)
        found[part] = {"options": _plain(eval_set.options), **prompts.checksums()}
        _add_files(found, part, _data(eval_set.options))


def of_evaluation(inputs: Inputs, eval_set: EvalSet) -> dict[str, Any]:
    """What the settings of an evaluation note of its inputs, beside its protocol.

    Args:
      inputs: of its policy and its sets.
      eval_set: the set whose settings these are.
    """
    tokenizer, parts = inputs["tokenizer"], (_MODEL, "weights", _part(eval_set))
    return {
        "model": _crc(inputs["model"]),
        "tokenizer": tokenizer["crc entries"],
        "stop_ids": sorted(tokenizer["stop_ids"]),
        _FILES: {part: inputs[_FILES].get(part, {}) for part in parts},
    }


def read(workdir: str | pathlib.Path) -> Inputs | None:
    """What a folder's run has noted; None if it has noted nothing.

    Raises:
      Refused: the file is broken.
    """
    path = pathlib.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        found = user_files.read_object(path)
        if not all(isinstance(facts, dict) for facts in found.values()):
            raise Refused(f"{path} is not as a run has it.")
    except Refused as error:
        raise Refused(
            f"{error} Or remove it: what the run reads is noted anew then, without "
            "having been compared."
        ) from None
    return found


def check(workdir: str | pathlib.Path, inputs: Inputs) -> None:
    """Compares inputs with those that a folder's run has noted.

    With several processes all must call this: what they have read is compared too.

    Raises:
      Refused: they differ; names what, the files that changed, and the ways out.
    """
    saved = read(workdir)
    agree(inputs)
    folder = pathlib.Path(workdir)
    if saved is None:
        if (folder / records_lib.CONFIG).exists() and distributed.is_first():
            _log.warning(
                "%s has no %s: it cannot be told whether data, tokenizer and weights "
                "are those that the run has read so far. From now on it can.",
                workdir,
                NAME,
            )
        return
    found = differences(saved, inputs)
    if found:
        raise Refused(
            f"workdir={str(workdir)!r} holds a run that has read something else:\n"
            f"{_listing(found, saved, inputs)}\n"
            "Bring back what it has read, or use a new workdir. If the run shall go on "
            f"with what is there now, remove {folder / NAME}, and it is noted anew."
        )


def check_policy(
    workdir: str | pathlib.Path, config: ConfigDict, inputs: Inputs
) -> None:
    """Compares sizes and tokenizer with those that a run was trained with.

    Args:
      workdir: of the run.
      config: of its evaluation, which may ask for other stop tokens.
      inputs: of the evaluation's policy.

    Raises:
      Refused: they differ.
    """
    saved, given = read(workdir) or {}, dict(inputs)
    trained = records_lib.read_config(workdir)["model"]
    if list(config.model.stop_tokens) != trained.get("stop_tokens"):
        known = given["tokenizer"].items()
        given["tokenizer"] = {k: v for k, v in known if k != "stop_ids"}
    found = differences(saved, given)
    if found:
        raise Refused(
            f"model.path={config.model.path!r} is not as the run in {str(workdir)!r} "
            f"has read it:\n{_listing(found, saved, inputs)}\n"
            "Bring back what it was, or evaluate a folder that the run has exported."
        )


def agree(inputs: Inputs) -> None:
    """Makes sure that all processes have read the same; all must call this.

    Raises:
      Refused: one has not.
    """
    message = np.frombuffer(json.dumps(inputs).encode(), np.uint8)
    everyone = [
        json.loads(part["inputs"].tobytes())
        for part in distributed.gather({"inputs": message})
    ]
    for process, other in enumerate(everyone):
        found = differences(everyone[0], other)
        if found:
            raise Refused(
                f"process {process} reads something else than process 0:\n"
                f"{_listing(found, everyone[0], other)}\n"
                "Give all hosts the same files."
            )


def differences(saved: Inputs, given: Inputs) -> list[str]:
    """What differs, in words; of what both know.

    An evaluation set whose options differ is not compared: the user asked for another.
    """
    found = []
    for part in given:
        old, new = saved.get(part, {}), given[part]
        if part == _FILES or old.get("options") != new.get("options"):
            continue
        keys = [key for key in new if key in old and old[key] != new[key]]
        others = [key.removeprefix("crc ") for key in keys if key.startswith("crc ")]
        if keys and "rows" not in others and "crc rows" in new:
            found.append(f"{part}: the same rows in another order")
            continue
        found += [
            f"{part}: {key} was {old[key]!r}, now {new[key]!r}"
            for key in keys
            if not key.startswith("crc ")
        ]
        # That rows differ is said by what differs in them.
        others = [name for name in others if name != "rows"]
        if others:
            found.append(f"{part}: other {', '.join(others)}")
    return found


# Settings that say where something lies that is compared by what it holds, or how it
# is found there.
_PLACES = (
    "model.path",
    *(f"task.{s}.{key}" for s in ("train", "test") for key in ("path", "columns")),
    "data.exclude_ids",
)


def may_change(workdir: str | pathlib.Path, keys: Collection[str]) -> tuple[str, ...]:
    """The keys of a config that a resumed run may set anew.

    Where files lie does not matter once it is noted what was in them. A run that has
    noted nothing may have seen another day's date in each of its starts, so it may be
    given one.
    """
    noted = (pathlib.Path(workdir) / NAME).exists()
    return (*keys, *_PLACES) if noted else (*keys, "task.template_options")


def digest(inputs: Inputs) -> dict[str, str]:
    """A checksum of each input, for the record of a start."""
    return {part: _crc(facts) for part, facts in inputs.items() if part != _FILES}


def note(workdir: str | pathlib.Path, inputs: Inputs, *, resumed: bool) -> None:
    """Writes the inputs into a run's folder; what else a resumed run knew is kept."""
    saved = read(workdir) or {} if resumed else {}
    merged = saved | {part: saved.get(part, {}) | inputs[part] for part in inputs}
    for part in inputs:
        # Of a set that was exchanged, or files that are gone, nothing is left.
        if part == _FILES or "options" in inputs[part]:
            merged[part] = inputs[part]
    text = json.dumps(merged, indent=2) + "\n"
    records_lib.replace(pathlib.Path(workdir) / NAME, text.encode())


def _part(eval_set: EvalSet) -> str:
    return f"evaluation set {eval_set.name}"


def _add_files(found: Inputs, part: str, paths: Iterable[pathlib.Path]) -> None:
    marks = found.setdefault(_FILES, {}).setdefault(part, {})
    for path in paths:
        with path.open("rb") as file:
            marks[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _data(options: Mapping[str, Any]) -> list[pathlib.Path]:
    """The files that a task's options name, if its problems come from files."""
    if not options.get("path"):
        return []
    return list(math_sets.locate(options["path"], options["split"]).paths)


def _listing(lines: Iterable[str], saved: Inputs, given: Inputs) -> str:
    """What differs, line by line, and the files that have changed."""
    files = saved.get(_FILES, {}), given.get(_FILES, {})
    lines = [f"  {line}" for line in lines]
    return "\n".join([*lines, records_lib.changed_files(*files)])


def _crc(content: Any) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _plain(content):
    """As JSON has it: tuples as lists."""
    return json.loads(json.dumps(content))
