"""Text to token ids and back, and which tokens end a completion.

A thin layer over `transformers`' fast tokenizers: one way to turn a prompt into ids,
one to turn ids into text, and the set of stop tokens, which Hugging Face spreads over
three files. Nothing here reaches the network, and nothing imports jax.
"""

import contextlib
import dataclasses
import datetime
import difflib
import functools
import inspect
import json
import pathlib
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import tokenizers

from hapo_jax.model import messages as messages_lib
from hapo_jax.model.messages import Message
from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.system.user_files import Fields

if TYPE_CHECKING:  # imported where a tokenizer is read: it takes as long as JAX
    import transformers

# Ends of a turn in the chat formats of Qwen and Llama 3. Base checkpoints carry the
# token but do not list it as a stop, and a policy may learn to end with it.
CHAT_ENDS = ("<|im_end|>", "<|eot_id|>")
CHAT_MODES = ("auto", "chat", "plain")

# Everything that a tokenizer can consist of. Exports copy these byte for byte: written
# anew, transformers 5 names a class in `tokenizer_config.json` that 4 cannot load.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_CONFIGS = ("generation_config.json", "config.json")  # which name stop tokens too
_TEMPLATE = "chat_template.jinja"
# A template takes milliseconds; one that takes this long will not end.
TEMPLATE_S = 10.0

# The function by which a template asks for the time, its formats' directives, and how
# `date_string` may be written where it is the answer.
_CLOCK = "strftime_now"
_DIRECTIVES = "aAbBcdGHIjmMpSuUVwWxXyY"
_DATES = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%b %d, %Y", "%B %d, %Y")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class PromptMode:
    """How prompts become text.

    Attributes:
      chat: by the chat template; else as plain text.
      why: in words.
      warning: what may be wrong with that; empty if nothing is known to be.
    """

    chat: bool
    why: str
    warning: str = ""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its stop tokens.

    Attributes:
      backend: the `transformers` tokenizer.
      stop_ids: ids that end a completion, the tokenizer's own end token first.
      pad_id: the id that fills unused positions; masks decide, never this id.
      folder: where the tokenizer's files are, or None if it was built in memory.
      left_out: an id that the model does not have, see `within`.
    """

    backend: "transformers.PreTrainedTokenizerFast"
    stop_ids: tuple[int, ...]
    pad_id: int
    folder: pathlib.Path | None = None
    left_out: int | None = None
    # Sequences of roles that the template is known to write in full.
    _written: set[tuple[str, ...]] = dataclasses.field(
        default_factory=set, init=False, repr=False, compare=False
    )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's V may be larger, never smaller."""
        ids = set(self.backend.get_vocab().values()) - {self.left_out}
        return 1 + max(ids, default=-1)

    def within(self, vocab_size: int) -> "Tokenizer":
        """For a model of so many ids: does without a padding token beyond them.

        Many checkpoints got one and kept their embedding as it was. Masks decide what
        counts, so another id fills rows as well; a text that holds it is refused.
        """
        if self.pad_id < vocab_size or self.pad_id in self.stop_ids:
            return self
        return dataclasses.replace(self, pad_id=self.stop_ids[0], left_out=self.pad_id)

    def unused_ids(self, vocab_size: int) -> tuple[tuple[int, int], ...]:
        """Ranges (first, behind the last) of ids below `vocab_size` without a token."""
        known = np.zeros(vocab_size + 2, bool)
        ids = np.fromiter(self.backend.get_vocab().values(), np.int64)
        known[ids[ids < vocab_size] + 1] = True
        known[[0, -1]] = True  # fences
        ends = np.flatnonzero(np.diff(known))
        return tuple((int(a), int(b)) for a, b in ends.reshape(-1, 2))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no token is put before or after it.

        Raises:
          Refused: it holds what is no text, or a token that the model does not have.
        """
        return self._encode(text, add_special_tokens=False)

    def _encode(self, text: str, **options: bool) -> list[int]:
        _check_text(text)
        with _refusing(f"the tokenizer in {self.folder} cannot read a text"):
            ids = self.backend.encode(text, **options)
        if self.left_out in ids:
            token = self.backend.convert_ids_to_tokens(self.left_out)
            raise Refused(
                f"the text holds {token!r}, token {self.left_out} of the tokenizer in "
                f"{self.folder}, which the model does not have; leave it out."
            )
        return ids

    def prompt_mode(self, chat_template: str) -> PromptMode:
        """How prompts become text under a mode of `CHAT_MODES`, and why.

        Raises:
          Refused: an unknown mode, or 'chat' without a template.
        """
        chat, asked = self._is_chat(chat_template), chat_template != "auto"
        vocabulary = self.backend.get_vocab()
        if not chat:
            turns = [t for t in messages_lib.TURN_TOKENS if t in vocabulary]
            warning = ""
            if turns and not asked:
                warning = (
                    f"Prompts are plain text, since the tokenizer in {self.folder} has "
                    f"no chat template, yet its vocabulary has {', '.join(turns[:3])}. "
                    "If the model was trained to chat, copy chat_template.jinja (or "
                    "tokenizer_config.json with chat_template) of the original model "
                    "there; if not, set task.chat_template=plain."
                )
            why = "the tokenizer has no chat template"
            if asked:
                why = "task.chat_template=plain"
            return PromptMode(chat=False, why=why, warning=warning)
        warning = ""
        if foreign := messages_lib.foreign_tokens(self._template(), vocabulary):
            warning = (
                f"{self._template_file} writes {', '.join(foreign)}, which the "
                "vocabulary does not have, so it is cut into pieces: the template "
                "seems to be another model's. Copy that of the original model, or set "
                "task.chat_template=plain."
            )
        why = "task.chat_template=chat" if asked else "the tokenizer has it"
        return PromptMode(chat=True, why=why, warning=warning)

    def _is_chat(self, chat_template: str) -> bool:
        """Whether prompts go through the template; see `prompt_mode`."""
        if chat_template not in CHAT_MODES:
            raise Refused(f"{chat_template=} is not one of {', '.join(CHAT_MODES)}.")
        has_template = bool(self.backend.chat_template)
        if chat_template == "chat" and not has_template:
            raise Refused(
                f"chat_template='chat', but the tokenizer in {self.folder} has no chat "
                "template; add chat_template.jinja to that folder, or use 'plain'."
            )
        return has_template and chat_template != "plain"

    def _template(self) -> str:
        """The chat template, which there is."""
        with _refusing(f"{self._template_file} has no template called 'default'"):
            return self.backend.get_chat_template()

    def encode_prompt(
        self,
        prompt: str | Sequence[Message],
        *,
        chat_template: str = "auto",
        template_options: Mapping[str, Any] | None = None,
        system_prompt: str = "",
    ) -> list[int]:
        """Ids of a prompt, ready for the policy to continue.

        'chat' renders the tokenizer's template, with the opening of the assistant's
        turn; a string counts as one user message. 'plain' takes the text as it is
        (messages are joined by an empty line) with the tokenizer's own begin token
        if it has one. 'auto' is 'chat' where the tokenizer has a template.

        Args:
          prompt: text, or messages with the keys `role` and `content`.
          chat_template: 'auto', 'chat' or 'plain'.
          template_options: variables for the template, such as
            `{"enable_thinking": False}` (Qwen3). `date_string` is also what a template
            gets that asks for the time.
          system_prompt: text of a system message before the prompt; empty for none.

        Raises:
          Refused: 'chat' without a template, an unknown mode, a template that
            refuses the messages or leaves one out, an option that the template does
            not read or that there is no template for, a template that asks for the
            time without `date_string`, two system messages, or messages that
            `messages.check` refuses.
        """
        chat, options = self._is_chat(chat_template), template_options or {}
        if system_prompt:
            prompt = messages_lib.with_system(prompt, system_prompt)
        elif chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, str):
            messages_lib.check(prompt, plain=not chat)
        if not chat:
            if options:
                has = "a" if self.backend.chat_template else "no"
                raise Refused(
                    f"template_options={dict(options)} are of a chat template, and "
                    f"prompts are plain: {chat_template=}, and the tokenizer in "
                    f"{self.folder} has {has} template; "
                    "leave them out, or use chat_template='chat'."
                )
            return self._encode(_plain_text(prompt))
        template = self._template()
        if options:
            self._check_options(template, options)
        for message in prompt:
            _check_text(message["content"])
        text = self._render(template, prompt, options)
        if _SURROGATE.search(text):
            raise Refused(f"{self._template_file} writes half a character; mend it.")
        messages_lib.check_rendered(prompt, text, self._template_file)
        self._check_roles(template, prompt, options)
        # The template has written the begin token; encoding must not add another.
        return self.encode(text)

    def _check_roles(
        self, template: str, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> None:
        """Refuses roles that the template drops, which short contents can hide: a `2`
        is found in any date."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._written:
            probes = messages_lib.probes(messages)
            text = self._render(template, probes, options)
            messages_lib.check_rendered(probes, text, self._template_file)
            self._written.add(roles)

    def _render(
        self, template: str, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> str:
        """The text of a prompt, opening of the assistant's turn included."""
        date = options.get("date_string")
        told = user_files.short([dict(message) for message in messages])
        try:
            with (
                _refusing(
                    f"{self._template_file} fails on {told}", jinja2.TemplateError
                ),
                _deadline(TEMPLATE_S),
            ):
                return self.backend.apply_chat_template(
                    [dict(message) for message in messages],
                    tokenize=False,
                    add_generation_prompt=True,
                    chat_template=_without_clock(template, date),
                    **options,
                )
        except jinja2.TemplateSyntaxError as error:
            raise Refused(
                f"{self._template_file} is not valid Jinja in line {error.lineno}: "
                f"{error.message}; mend it, or copy it from the original model."
            ) from error
        except jinja2.TemplateError as error:
            if str(error) == _CLOCK:
                given = f", and {date!r} cannot be read as a day" if date else ""
                raise Refused(
                    f"the chat template in {self.folder} asks for the time{given}: a "
                    "run that is resumed on another day would see other prompts. Give "
                    "the day that prompts shall name, as in "
                    "--config.task.template_options.date_string='26 Jul 2024'."
                ) from error
            raise Refused(f"{self._template_file} refuses {told}: {error}") from error

    @property
    def _template_file(self) -> str:
        """Where the chat template is, for messages."""
        if self.folder is None:
            return "the chat template"
        named = (self.folder / _TEMPLATE).exists()
        file = self.folder / (_TEMPLATE if named else "tokenizer_config.json")
        return f"the chat template in {file}"

    def _check_options(self, template: str, options: Mapping[str, Any]) -> None:
        """Refuses options that would change nothing, or break the call."""
        words = set(re.findall(r"[A-Za-z_]\w*", template))
        if _CLOCK in words:
            words.add("date_string")
        # What this file says itself, and what transformers does.
        taken = {*inspect.signature(self.backend.apply_chat_template).parameters}
        taken = (taken | {"messages", _CLOCK}) - {"tools", "documents"}
        date = options.get("date_string", "")
        if not isinstance(date, str):
            raise Refused(
                f"template_options: date_string={date!r} must be a text, such as "
                "'26 Jul 2024'."
            )
        for name in options:
            if name in taken or name not in words:
                near = difflib.get_close_matches(name, words - taken, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise Refused(
                    f"template_options: the chat template in {self.folder} reads no "
                    f"{name!r}{hint}; correct it or leave it out."
                )

    def fingerprint(self) -> str:
        """A checksum of what each id stands for: its token, its text, its place.

        Other entries change it, another order of them, and other special tokens; other
        merges or a rule by which text is cut do not, as they show in a prompt's ids.
        """
        ids = list(range(self.vocab_size))
        tokens = self.backend.convert_ids_to_tokens(ids)
        # Each twice, for what a decoder puts between two tokens.
        texts = self.backend.backend_tokenizer.decode_batch(
            [[i, i] for i in ids], skip_special_tokens=True
        )
        return f"{zlib.crc32(json.dumps([tokens, texts]).encode()):08x}"

    def files(self) -> list[pathlib.Path]:
        """The files in `folder` that prompts, texts and stop tokens come from."""
        if self.folder is None:
            return []
        found = (self.folder / name for name in (*_FILES, *_CONFIGS))
        return [path for path in found if path.is_file()]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of `ids`; special tokens, stops among them, are left out by default.

        Ids from `vocab_size` on, which a padded vocabulary allows, give no text.
        """
        return self.backend.decode(
            [int(i) for i in ids],
            skip_special_tokens=not keep_special,
            clean_up_tokenization_spaces=False,
        )

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token's own text, for display; a split character shows as `\ufffd`."""
        return [self.decode([i], keep_special=True) for i in ids]

    def save(self, folder: str | pathlib.Path) -> None:
        """Puts the tokenizer's files into the existing `folder`.

        Raises:
          Refused: the folder that it was loaded from no longer holds them.
        """
        if self.folder is None:
            self.backend.save_pretrained(folder)
            return
        present = [name for name in _FILES if (self.folder / name).is_file()]
        if not present:
            raise Refused(
                f"the tokenizer's files are gone from {self.folder}; restore them or "
                "load the tokenizer from where they are now."
            )
        for name in present:
            shutil.copyfile(self.folder / name, pathlib.Path(folder) / name)


def load(path: str | pathlib.Path, *, stop: Sequence[str] = ()) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face folder, from its files alone.

    A completion stops at the tokenizer's end token, at each `eos_token_id` of
    `generation_config.json` and `config.json`, at the ends of a chat turn
    (`CHAT_ENDS`) that the vocabulary has, and at each string of `stop`.

    Args:
      path: a folder with `tokenizer.json` (or `vocab.json` and `merges.txt`).
      stop: further stop tokens, as text; each must be a single token.

    Raises:
      Refused: no tokenizer in the folder, a stop that is not a single token, an
        `eos_token_id` that is an ordinary token, or no stop token at all.
    """
    import transformers

    folder = pathlib.Path(path)
    if not any(
        map(user_files.is_there, (folder / "tokenizer.json", folder / "vocab.json"))
    ):
        raise Refused(
            f"{folder} holds neither tokenizer.json nor vocab.json; copy the "
            "tokenizer's files there (a .gz must be unpacked; tokenizer.model must be "
            "converted, by `AutoTokenizer` and `save_pretrained` of transformers)."
        )
    _check_files(folder)
    # tokenizer.json says everything. AutoTokenizer of transformers 5 takes the class of
    # `model_type` instead, and Qwen2's keeps nothing of the file but its vocabulary.
    kind = (
        transformers.PreTrainedTokenizerFast
        if (folder / "tokenizer.json").exists()
        else transformers.AutoTokenizer
    )
    try:
        backend = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except BaseException as error:
        raise _refusal(error, f"{_broken_file(folder)} cannot be loaded") from error
    other = folder / "chat_template.json"
    if not backend.chat_template and other.exists():
        raise Refused(
            f"{other} is read by no tokenizer; put its template into "
            f"{folder / _TEMPLATE}, as plain text, or remove it to go without."
        )
    stop_ids = _stop_ids(backend, folder, stop)
    pad_id = backend.pad_token_id
    return Tokenizer(
        backend=backend,
        stop_ids=stop_ids,
        pad_id=stop_ids[0] if pad_id is None else pad_id,
        folder=folder,
    )


def _check_files(folder: pathlib.Path) -> None:
    """Refuses broken files by name, before transformers stumbles over them."""
    for name in (*_FILES, *_CONFIGS):
        if not user_files.is_there(folder / name):
            continue
        if not name.endswith(".json"):
            user_files.read_text(folder / name)
            continue
        found = user_files.read_object(folder / name)
        if name in ("tokenizer_config.json", "special_tokens_map.json"):
            _check_tokens(Fields(found, str(folder / name)))


def _check_tokens(fields: Fields) -> None:
    """What these files say of special tokens and of the chat template."""
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = fields.get(key)
        if isinstance(token, dict):
            token = Fields(token, f"{fields.where}: {key}").text("content")
        elif token is not None and not isinstance(token, str):
            fields.refuse(key, 'must be a text, {"content": text, …} or null')
        if token is not None and _SURROGATE.search(token):
            fields.refuse(key, "holds half a character")
    templates = fields.get("chat_template")
    if isinstance(templates, dict):
        templates = list(templates.values())
    elif isinstance(templates, list):
        templates = [isinstance(t, dict) and t.get("template") for t in templates]
    else:
        templates = [templates or ""]
    if not all(isinstance(template, str) for template in templates):
        fields.refuse(
            "chat_template", 'must be a text, or a list of {"name": …, "template": …}'
        )


def _broken_file(folder: pathlib.Path) -> pathlib.Path:
    """Which file it is that no tokenizer can be made of."""
    main = folder / "tokenizer.json"
    try:
        tokenizers.Tokenizer.from_file(str(main))
    except BaseException as error:
        _refusal(error, "")
        return main if main.exists() else folder / "vocab.json"
    return folder / "tokenizer_config.json"


def _refusal(error: BaseException, what: str) -> Refused:
    """For an exception of a library that fails on a broken file in many ways.

    One that is no fault of a file, such as Ctrl-C or a bad disk, is raised again.
    """
    # What tokenizers, in Rust, raises where it gives up is no Exception.
    of_file = isinstance(error, Exception) or type(error).__name__ == "PanicException"
    if not of_file or (isinstance(error, OSError) and error.errno):
        raise error
    said = " ".join(str(error).split())[:300]
    return Refused(
        f"{what} ({type(error).__name__}: {said}); mend it, or copy it from the "
        "original model."
    )


@contextlib.contextmanager
def _refusing(what: str, *but: type[Exception]) -> Iterator[None]:
    """Around calls of libraries: what they raise becomes a refusal, but not `but`."""
    try:
        yield
    except but:
        raise
    except BaseException as error:
        raise _refusal(error, what) from error


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside when the time is up; in the main thread alone, as
    signals need."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TimeoutError(f"it takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


@functools.cache
def _without_clock(template: str, date: str | None) -> str:
    """The template, in which the function for the time gives `date`, or refuses.

    A macro of the same name does it: transformers passes no functions to a template.
    """
    if _CLOCK not in template:
        return template
    day = _day(date)
    if day is None:
        body = f"{{{{ raise_exception({_CLOCK!r}) }}}}"
    else:
        texts = {}
        for directive in _DIRECTIVES:
            text = day.strftime(f"%{directive}")
            # `%-d` is `%d` without a leading zero.
            texts |= {f"%{directive}": text, f"%-{directive}": text.lstrip("0") or "0"}
        body = (
            "{%- set now = namespace(text=format) -%}"
            f"{{%- for directive, text in {texts!r}.items() -%}}"
            "{%- set now.text = now.text | replace(directive, text) -%}"
            "{%- endfor -%}{{ now.text }}"
        )
    macro = f"{{%- macro {_CLOCK}(format) -%}}{body}{{%- endmacro %}}"
    return f"{macro}\n{template}"  # which begins on a line of its own, as before


def _day(date: str | None) -> datetime.datetime | None:
    """Its midnight; None if it is written in none of the ways of `_DATES`."""
    for form in _DATES:
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(date or "", form)
    return None


def _check_text(text: str) -> None:
    if broken := _SURROGATE.search(text):
        around = text[max(0, broken.start() - 20) : broken.end() + 20]
        raise Refused(
            f"the text holds half a character, {broken.group()!r} in {around!r} (as "
            "of an emoji cut in two); write it in full or leave it out."
        )


def _plain_text(prompt: str | Sequence[Message]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message["content"] for message in prompt)


def _stop_ids(backend, folder: pathlib.Path, stop: Sequence[str]) -> tuple[int, ...]:
    ids = [] if backend.eos_token_id is None else [backend.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        ids += _eos_ids(backend, folder / name)
    vocabulary = backend.get_vocab()
    ids += [vocabulary[token] for token in CHAT_ENDS if token in vocabulary]
    ids += [_single_id(backend, text) for text in stop]
    if not ids:
        raise Refused(
            f"{folder} names no end token (eos_token in tokenizer_config.json, "
            "eos_token_id in generation_config.json); add one, or give a stop string."
        )
    return tuple(dict.fromkeys(ids))  # the first of each, in order


def _eos_ids(backend, file: pathlib.Path) -> list[int]:
    """The `eos_token_id` of a config file: absent, one id, or several."""
    if not file.exists():
        return []
    fields = Fields(user_files.read_object(file), str(file))
    eos = fields.get("eos_token_id", [])
    ids = eos if isinstance(eos, list) else [eos]
    if not all(type(i) is int for i in ids):
        fields.refuse("eos_token_id", "must be a whole number, a list of them, or null")
    # A config written with default values points at whatever token 2 is, and every
    # completion would end at the first "#". Ordinary tokens are believed only beside
    # the tokenizer's own end token.
    own = backend.eos_token_id
    ordinary = [i for i in ids if i not in backend.added_tokens_decoder]
    known = set(backend.get_vocab().values())
    unknown = [i for i in ids if i not in known]
    if unknown or (ordinary and own is not None and own not in ids):
        tokens = {i: backend.convert_ids_to_tokens(i) for i in ordinary if i in known}
        raise Refused(
            f"{file}: eos_token_id={user_files.short(eos)} is not of this tokenizer, "
            f"for which it is {tokens}; write the id of its end token there, {own} "
            f"({backend.eos_token!r}), or null."
        )
    return ids


def _single_id(backend, text: str) -> int:
    _check_text(text)
    with _refusing(f"model.stop_tokens: {text!r} cannot be read"):
        ids = backend.encode(text, add_special_tokens=False)
        # An unknown word may become one token as well, which then says something else.
        known = backend.decode(ids, clean_up_tokenization_spaces=False).strip(" ")
    if len(ids) != 1 or (known != text.strip(" ") and text not in backend.get_vocab()):
        what = (
            f"{len(ids)} tokens {ids}" if len(ids) != 1 else "unknown to the tokenizer"
        )
        raise Refused(
            f"model.stop_tokens: {text!r} is {what}; a stop must be a single token of "
            "the vocabulary."
        )
    return ids[0]
