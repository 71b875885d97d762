"""Prompts to ids and back, stop tokens, and errors, on small tokenizers built here.

The real tokenizers are tested where their files are found (HAPO_DATA_DIR).
"""

import errno
import gzip
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import tokenizers
import transformers

from hapo_jax.model import tokenizer as tokenizer_lib
from tests import real_data

ROOT = pathlib.Path(__file__).parents[2]
MODELS = real_data.FOLDER / "models"

TEMPLATE = (
    "{% if messages[0]['role'] == 'assistant' %}"
    "{{ raise_exception('must begin with a user') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }} <|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {{ mood }}"
    "{% endif %}"
)
WHAT_IS = "what is {{ messages[0]['content'] }}"
SPECIAL = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
WORDS = ["user", "assistant", "system", "what", "is", "this", "calm", "stop"]
IDS = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}


def write(folder, *, template=TEMPLATE, special=SPECIAL, bos=False, **named):
    """A word tokenizer; `named` gives its eos_token, pad_token and so on."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, "<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", IDS["<bos>"])]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=special, **named
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def chat(tmp_path):
    return tokenizer_lib.load(
        write(tmp_path, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>")
    )


def ids(text):
    return [IDS[word] for word in text.split()]


def test_chat_prompt(chat):
    expected = ids("<|im_start|> user what is this <|im_end|> <|im_start|> assistant")
    messages = [{"role": "user", "content": "what is this"}]
    assert chat.encode_prompt("what is this") == expected
    assert chat.encode_prompt(messages) == expected
    assert chat.encode_prompt(messages, chat_template="chat") == expected
    calm = chat.encode_prompt(messages, template_options={"mood": "calm"})
    assert calm == [*expected, IDS["calm"]]


def test_plain_prompt(chat):
    assert chat.encode_prompt("what is", chat_template="plain") == ids("what is")
    messages = [
        {"role": "system", "content": "this is"},
        {"role": "user", "content": "what"},
    ]
    plain = chat.encode_prompt(messages, chat_template="plain")
    assert plain == ids("this is what")


@pytest.mark.parametrize("template", [None, "<bos>" + TEMPLATE])
def test_begin_token_comes_once(tmp_path, template):
    """A plain prompt gets it from the tokenizer, a chat prompt from its template."""
    folder = write(tmp_path, template=template, bos=True, eos_token="<eos>")
    tokenizer = tokenizer_lib.load(folder)
    plain = tokenizer.encode_prompt("what", chat_template="plain")
    assert plain == ids("<bos> what")
    assert tokenizer.encode_prompt("what").count(IDS["<bos>"]) == 1
    assert tokenizer.encode("what") == ids("what")


def test_auto_is_plain_without_a_template(tmp_path):
    tokenizer = tokenizer_lib.load(write(tmp_path, template=None, eos_token="<eos>"))
    assert tokenizer.encode_prompt("what is") == ids("what is")
    with pytest.raises(ValueError, match=r"no chat template; add chat_template.jinja"):
        tokenizer.encode_prompt("what is", chat_template="chat")


def test_refused_prompts(chat):
    with pytest.raises(ValueError, match=r"chat_template='qwen' is not one of auto"):
        chat.encode_prompt("what", chat_template="qwen")
    assistant = [{"role": "assistant", "content": "this"}]
    user = [{"role": "user", "content": "what"}]
    with pytest.raises(ValueError, match="refuses .*must begin with a user"):
        chat.encode_prompt(assistant + user)
    for mode in ("plain", "auto"):
        with pytest.raises(ValueError, match="cannot hold an assi|ends with an assis"):
            chat.encode_prompt(user + assistant, chat_template=mode)
    with pytest.raises(ValueError, match="cannot hold an assistant message"):
        chat.encode_prompt(assistant + user, chat_template="plain")


# As Qwen2.5's: a role that it does not know is passed over.
KNOWS_ROLES = (
    "{% for m in messages %}{% if m['role'] in ['system', 'user', 'assistant'] %}"
    "<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endif %}{% endfor %}"
    "<|im_start|> assistant"
)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([("human", "what")], "no message of the role 'user'.*did you mean 'user'"),
        ([("system", "this")], "no message of the role 'user'"),
        ([("user", "what"), ("human", "is")], "message 2 of 2, of the role 'human'"),
        # A short text that stands elsewhere in the prompt as well.
        ([("human", "user"), ("user", "what")], "message 1 of 2, of the role 'human'"),
        ([("tool", "is"), ("user", "what")], "of the role 'tool'"),
        ([("user", "what"), ("assistant", "this")], "ends with an assistant message"),
        ([("user", "what"), ("user", " ")], r"message 2 \(user\) has an empty content"),
        ([("user", None)], "message 1 of 1 must have the texts role and content"),
        ([(None, "what")], "message 1 of 1 must have the texts role and content"),
    ],
)
def test_messages_that_would_be_lost(tmp_path, messages, words):
    folder = write(tmp_path, template=KNOWS_ROLES, eos_token="<eos>")
    messages = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(ValueError, match=words):
        tokenizer_lib.load(folder).encode_prompt(messages)


def test_messages_that_are_kept(tmp_path):
    """Several turns, a system message that is empty, thoughts of an earlier turn."""
    cut = KNOWS_ROLES.replace("m['content']", "m['content'].split('</think>')[-1]")
    tokenizer = tokenizer_lib.load(write(tmp_path, template=cut, eos_token="<eos>"))
    turns = [
        ("system", ""),
        ("user", "what is"),
        ("assistant", "calm </think> this"),
        ("user", "stop"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert tokenizer.encode_prompt(messages) == ids(
        "<|im_start|> system <|im_end|> <|im_start|> user what is <|im_end|> "
        "<|im_start|> assistant this <|im_end|> <|im_start|> user stop <|im_end|> "
        "<|im_start|> assistant"
    )


def test_a_template_that_rewrites_the_problem(tmp_path):
    lower = KNOWS_ROLES.replace("m['content']", "m['content'] | replace('is', 'this')")
    tokenizer = tokenizer_lib.load(write(tmp_path, template=lower, eos_token="<eos>"))
    assert tokenizer.encode_prompt("what") == ids(
        "<|im_start|> user what <|im_end|> <|im_start|> assistant"
    )
    with pytest.raises(ValueError, match=r"leaves out or rewrites .*'what is calm'"):
        tokenizer.encode_prompt("what is calm")


def test_a_system_prompt_comes_first(tmp_path, chat):
    expected = "<|im_start|> system calm <|im_end|> <|im_start|> user what <|im_end|> "
    expected = ids(expected + "<|im_start|> assistant")
    assert chat.encode_prompt("what", system_prompt="calm") == expected
    user = [{"role": "user", "content": "what"}]
    assert chat.encode_prompt(user, system_prompt="calm") == expected
    plain = chat.encode_prompt("what", system_prompt="calm", chat_template="plain")
    assert plain == ids("calm what")
    own = [{"role": "system", "content": "stop"}, *user]
    with pytest.raises(ValueError, match="has a system message of its own"):
        chat.encode_prompt(own, system_prompt="calm")
    no_system = KNOWS_ROLES.replace("'system', ", "")
    folder = write(tmp_path / "other", template=no_system, eos_token="<eos>")
    with pytest.raises(ValueError, match="message 1 of 2, of the role 'system'"):
        tokenizer_lib.load(folder).encode_prompt("what", system_prompt="calm")


def test_a_mode_has_a_reason_and_perhaps_a_warning(tmp_path, chat):
    mode = chat.prompt_mode("auto")
    assert mode == tokenizer_lib.PromptMode(True, "the tokenizer has it")
    assert chat.prompt_mode("plain").why == "task.chat_template=plain"
    # chat_template.jinja was not copied; each remedy makes the warning go.
    folder = write(tmp_path / "bare", template=None, eos_token="<eos>")
    bare = tokenizer_lib.load(folder)
    mode = bare.prompt_mode("auto")
    assert not mode.chat and mode.why == "the tokenizer has no chat template"
    assert "no chat template" in mode.warning and "<|im_start|>" in mode.warning
    assert not bare.prompt_mode("plain").warning
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert tokenizer_lib.load(folder).prompt_mode("auto") == chat.prompt_mode("auto")
    # A template of another model.
    (folder / "chat_template.jinja").write_text(f"<|eot_id|>{TEMPLATE}")
    warning = tokenizer_lib.load(folder).prompt_mode("auto").warning
    assert "writes <|eot_id|>, which the vocabulary does not have" in warning


LLAMA_DATE = (  # as in Llama 3.2's template
    "{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n"
    "        {%- set date_string = strftime_now('%d %b %Y') %}\n"
    "    {%- else %}\n"
    "        {%- set date_string = '26 Jul 2024' %}\n"
    "    {%- endif %}\n"
    "{%- endif %}\n"
    "{{ '[' + date_string + ']' }}"
)
CALLED_DATE = "{%- set today = strftime_now('%Y-%m-%d') %}{{ '[' + today + ']' }}"
IN_MACRO = (
    "{% macro day(form) %}{{ strftime_now(form) }}{% endmacro %}"
    "[{{ day('%B %-d, %Y, a %A') }}]"
)


def shown_day(tokenizer, day=None):
    """What stands between brackets in a prompt's text."""
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        encode = lambda self, text: texts.append(text) or [1]  # noqa: E731
        patch.setattr(tokenizer_lib.Tokenizer, "encode", encode)
        options = {"date_string": day} if day else {}
        tokenizer.encode_prompt("what", template_options=options)
    return texts[0].partition("[")[2].partition("]")[0]


@pytest.mark.parametrize(
    ("head", "day", "shown"),
    [
        (LLAMA_DATE, "26 Jul 2024", "26 Jul 2024"),
        (LLAMA_DATE, "some day", "some day"),  # the template asks for no format
        (CALLED_DATE, "26 Jul 2024", "2024-07-26"),
        (CALLED_DATE, "2024-07-06", "2024-07-06"),
        (CALLED_DATE, "July 6, 2024", "2024-07-06"),
        (IN_MACRO, "6 Jul 2024", "July 6, 2024, a Saturday"),
    ],
)
def test_a_template_gets_the_day_it_is_given(tmp_path, head, day, shown):
    folder = write(tmp_path, template=head + TEMPLATE, eos_token="<eos>")
    assert shown_day(tokenizer_lib.load(folder), day) == shown


@pytest.mark.parametrize("head", [LLAMA_DATE, CALLED_DATE, IN_MACRO])
def test_a_template_that_asks_for_the_time_is_refused(tmp_path, head):
    folder = write(tmp_path, template=head + TEMPLATE, eos_token="<eos>")
    tokenizer = tokenizer_lib.load(folder)
    with pytest.raises(ValueError, match=r"asks for the time: .*date_string='26 Jul"):
        tokenizer.encode_prompt("what")
    assert tokenizer.encode_prompt("what", chat_template="plain") == ids("what")


def test_a_day_that_cannot_be_read_is_refused(tmp_path):
    folder = write(tmp_path, template=CALLED_DATE + TEMPLATE, eos_token="<eos>")
    tokenizer = tokenizer_lib.load(folder)
    with pytest.raises(ValueError, match="'26.7.24' cannot be read as a day"):
        shown_day(tokenizer, "26.7.24")
    with pytest.raises(ValueError, match="date_string=2024 must be a text"):
        shown_day(tokenizer, 2024)


@pytest.mark.parametrize(
    "head",
    [
        "{{ 'this' if strftime_now is defined }} ",
        "{% if messages | length > 1 %}{{ strftime_now('%Y') }}{% endif %}this ",
        "  {%- if true %}\n this{% endif %} ",
    ],
)
def test_other_templates_are_as_they_were(tmp_path, head):
    """One that only could ask, or whose spaces count."""
    for i, text in enumerate((head, head.replace("strftime_now", "nobody"))):
        folder = write(tmp_path / str(i), template=text + TEMPLATE, eos_token="<eos>")
        tokenizer = tokenizer_lib.load(folder)
        messages = [{"role": "user", "content": "what"}]
        plain = tokenizer.backend.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert tokenizer.encode_prompt("what") == tokenizer.encode(plain)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"moood": "calm"}, r"reads no 'moood' \(did you mean 'mood'\?\)"),
        ({"date_string": "26 Jul 2024"}, "reads no 'date_string'"),
        ({"add_generation_prompt": False}, "reads no 'add_generation_prompt'"),
        ({"messages": []}, "reads no 'messages'"),
        ({"strftime_now": "x"}, "reads no 'strftime_now'"),
    ],
)
def test_options_that_a_template_does_not_read_are_refused(chat, options, words):
    with pytest.raises(ValueError, match=words):
        chat.encode_prompt("what", template_options=options)


def test_options_without_a_template_are_refused(tmp_path, chat):
    bare = tokenizer_lib.load(write(tmp_path / "b", template=None, eos_token="<eos>"))
    with pytest.raises(ValueError, match=r"prompts are plain: .* has no template"):
        bare.encode_prompt("what", template_options={"mood": "calm"})
    with pytest.raises(ValueError, match=r"prompts are plain: .* has a template"):
        chat.encode_prompt(
            "what", chat_template="plain", template_options={"mood": "calm"}
        )


def test_a_fingerprint_sees_what_ids_stand_for(tmp_path):
    def of(name, change=lambda content: None):
        folder = write(tmp_path / name, eos_token="<eos>", pad_token="<pad>")
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=4))
        return tokenizer_lib.load(folder).fingerprint()

    def swap(content):  # which leaves every prompt as it was that has neither
        words = content["model"]["vocab"]
        words["calm"], words["stop"] = words["stop"], words["calm"]

    def rename(content):
        words = content["model"]["vocab"]
        words["quiet"] = words.pop("calm")

    def ordinary(content):
        content["added_tokens"][-1]["special"] = False

    def joined(content):
        content["decoder"] = {"type": "Fuse"}

    marks = [of("a"), *(of(f.__name__, f) for f in (swap, rename, ordinary, joined))]
    assert len(set(marks)) == 5
    assert of("b") == marks[0]


def test_decode(chat):
    tokens = ids("what is this <|im_end|> <pad>")
    assert chat.decode(tokens) == "what is this"
    assert chat.decode(tokens, keep_special=True) == "what is this <|im_end|> <pad>"
    assert chat.pieces(tokens) == "what is this <|im_end|> <pad>".split()
    assert chat.vocab_size == len(IDS)
    assert chat.decode([IDS["what"], chat.vocab_size + 7]) == "what"


def test_stop_tokens_come_from_all_files_in_order(tmp_path):
    folder = write(tmp_path, eos_token="<eos>", pad_token="<pad>")
    config, generation = folder / "config.json", folder / "generation_config.json"
    assert tokenizer_lib.load(folder).stop_ids == (2, 4)  # <eos>, <|im_end|>
    config.write_text('{"model_type": "llama", "eos_token_id": 1}')
    generation.write_text('{"eos_token_id": [3, 2]}')
    tokenizer = tokenizer_lib.load(folder, stop=["stop", "<eos>"])
    assert tokenizer.stop_ids == (2, 3, 1, 4, IDS["stop"])
    config.write_text('{"model_type": "llama", "eos_token_id": null}')
    assert tokenizer_lib.load(folder).stop_ids == (2, 3, 4)


def test_pad_token(tmp_path):
    with_pad = write(tmp_path / "a", eos_token="<eos>", pad_token="<pad>")
    assert tokenizer_lib.load(with_pad).pad_id == 0
    without = write(tmp_path / "b", eos_token="<eos>")
    assert tokenizer_lib.load(without).pad_id == 2


def test_default_eos_of_another_vocabulary_is_refused(tmp_path):
    """transformers writes eos_token_id=2 unless told; "this" is such a token here."""
    folder = write(tmp_path, eos_token="<eos>")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": IDS["this"]}))
    with pytest.raises(ValueError, match=r"eos_token_id=10 .*'this'.* 2 \('<eos>'\)"):
        tokenizer_lib.load(folder)
    # Beside the tokenizer's own end token it is meant: an export with such a stop.
    file.write_text(json.dumps({"eos_token_id": [IDS["<eos>"], IDS["this"]]}))
    assert IDS["this"] in tokenizer_lib.load(folder).stop_ids
    for beyond in (len(IDS), -1):
        file.write_text(json.dumps({"eos_token_id": [IDS["<eos>"], beyond]}))
        with pytest.raises(ValueError, match=f"{beyond}.*not of this tokenizer"):
            tokenizer_lib.load(folder)


def test_bad_stops(tmp_path):
    folder = write(tmp_path, special=SPECIAL[:3])
    with pytest.raises(ValueError, match="stop_tokens: 'is this' is 2 tokens"):
        tokenizer_lib.load(folder, stop=["is this"])
    with pytest.raises(ValueError, match="stop_tokens: '' is 0 tokens"):
        tokenizer_lib.load(folder, stop=[""])


@pytest.mark.parametrize("unk", [None, "<pad>"])
def test_a_stop_that_the_tokenizer_does_not_know(tmp_path, unk):
    """It becomes the unknown token, here <pad>, whether that is configured or not."""
    folder = write(tmp_path, eos_token="<eos>", unk_token=unk)
    with pytest.raises(ValueError, match="'zzz' is unknown to the tokenizer"):
        tokenizer_lib.load(folder, stop=["zzz"])
    assert IDS["calm"] in tokenizer_lib.load(folder, stop=["calm"]).stop_ids
    assert IDS["<pad>"] in tokenizer_lib.load(folder, stop=["<pad>"]).stop_ids


# --- broken files -------------------------------------------------------------------


def change(folder, name, **fields):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("eos", ["2", "<eos>", 2.0, True, [[2]], ["2"], {"a": 2}])
def test_end_tokens_of_another_type(tmp_path, name, eos):
    folder = write(tmp_path, eos_token="<eos>")
    change(folder, name, eos_token_id=eos)
    with pytest.raises(
        ValueError, match=f"{name}: eos_token_id=.* a whole number, a list of them"
    ):
        tokenizer_lib.load(folder)


@pytest.mark.parametrize("eos", [10**30, -1, [10**30]])
def test_end_tokens_that_are_none(tmp_path, eos):
    folder = write(tmp_path, eos_token="<eos>")
    change(folder, "generation_config.json", eos_token_id=eos)
    with pytest.raises(ValueError, match="eos_token_id=.* is not of this tokenizer"):
        tokenizer_lib.load(folder)


SMALL_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
]


@pytest.mark.parametrize("name", [*SMALL_FILES, "chat_template.jinja"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<html>", "is a web page"),
        (bytes(100), "nothing but zero bytes"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16"),
        (b'\xef\xbb\xbf{"a": 1}', "a byte order mark"),
        (b'{"a": "\xe9"}', "is not UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, name, data, words):
    folder = write(tmp_path, eos_token="<eos>")
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} .*{words}"):
        tokenizer_lib.load(folder)


@pytest.mark.parametrize("name", SMALL_FILES)
@pytest.mark.parametrize("text", ["[]", "null", "{", "5"])
def test_files_that_hold_no_object(tmp_path, name, text):
    folder = write(tmp_path, eos_token="<eos>")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} (holds|is not JSON)"):
        tokenizer_lib.load(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_folder_where_a_file_belongs(tmp_path, name):
    folder = write(tmp_path, eos_token="<eos>")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is no file"):
        tokenizer_lib.load(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to("nowhere")  # a cache that has lost it
    with pytest.raises(ValueError, match=f"{name} is a link that leads nowhere"):
        tokenizer_lib.load(folder)


def test_a_bad_disk_is_no_refusal(tmp_path, monkeypatch):
    """The next try may go well, and bad input ends a program for good."""
    folder = write(tmp_path, eos_token="<eos>")

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "from_pretrained", fail)
    with pytest.raises(OSError, match="Input/output error"):
        tokenizer_lib.load(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"eos_token": 5}, "tokenizer_config.json: eos_token=5 must be a text"),
        ({"pad_token": ["<pad>"]}, "pad_token=.* must be a text"),
        ({"eos_token": {"content": 5}}, "eos_token: content=5 must be a text"),
        ({"eos_token": {}}, "eos_token lacks content"),
        ({"pad_token": "\ud800"}, "pad_token=.* holds half a character"),
        ({"chat_template": 5}, "chat_template=5 must be a text, or a list"),
        ({"chat_template": ["a"]}, "chat_template=.* must be a text, or a list"),
        ({"chat_template": [{"name": "a"}]}, "chat_template=.* must be a text, or"),
        # What only transformers can tell.
        ({"added_tokens_decoder": []}, "tokenizer_config.json cannot be loaded"),
        ({"added_tokens_decoder": {"1": 5}}, "cannot be loaded .TypeError"),
        ({"padding_side": "up"}, "cannot be loaded .*Padding side"),
        ({"extra_special_tokens": 5}, "cannot be loaded"),
    ],
)
def test_broken_tokenizer_configs(tmp_path, fields, words):
    folder = write(tmp_path, eos_token="<eos>")
    change(folder, "tokenizer_config.json", **fields)
    with pytest.raises(ValueError, match=words) as error:
        tokenizer_lib.load(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": {}},
        {"model": None},
        {"added_tokens": [{"id": 10**12, "content": "a"}]},
        {"added_tokens": 5},
        {"pre_tokenizer": {"type": "Nothing"}},
        {"normalizer": "NFC"},
    ],
)
def test_broken_tokenizers(tmp_path, fields):
    folder = write(tmp_path, eos_token="<eos>")
    change(folder, "tokenizer.json", **fields)
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be loaded \("):
        tokenizer_lib.load(folder)


def test_a_wrong_length_limit_is_named(tmp_path):
    """Only found when a text is read."""
    folder = write(tmp_path, eos_token="<eos>")
    change(folder, "tokenizer_config.json", model_max_length="long")
    with pytest.raises(ValueError, match=f"tokenizer in {folder} cannot read a text"):
        tokenizer_lib.load(folder).encode("what")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if", "is not valid Jinja in line 1: "),
        ("a\n{% endfor %}", "is not valid Jinja in line 2: .*endfor"),
        ("{{ raise_exception('only users') }}", "refuses .*: only users"),
        ("{{ messages[5].content }}", "refuses .*: list object has no element 5"),
        ("{{ messages[0].name + 'a' }}", "refuses .* has no attribute 'name'"),
        ("{{ ''.__class__.__mro__ }}", "refuses .*unsafe"),
        ("{{ 1 / 0 }}", "fails on .*ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "fails on .*TypeError"),
        ("{{ none.items() }}", "refuses .*None"),
        ("{% include 'x' %}", "fails on .*TypeError"),
        ("{{ range(10**9) | list }}", "fails on .*OverflowError"),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "fails on .*RecursionError",
        ),
        ("{{ '\\ud800' }}", "half a character"),
    ],
)
def test_broken_templates(tmp_path, template, words):
    folder = write(tmp_path, template=template, eos_token="<eos>")
    tokenizer = tokenizer_lib.load(folder)
    with pytest.raises(ValueError, match=words) as error:
        tokenizer.encode_prompt("what")
    if "half a" not in words:
        assert str(folder / "chat_template.jinja") in str(error.value)
    assert tokenizer.encode_prompt("what", chat_template="plain") == ids("what")


def test_a_template_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_lib, "TEMPLATE_S", 0.2)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    folder = write(tmp_path, template=loop + "{% endfor %}", eos_token="<eos>")
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(ValueError, match=r"fails on .*it takes more than 0.2 s"):
        tokenizer_lib.load(folder).encode_prompt("what")
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_several_templates(tmp_path):
    """The one called default is used; where none is, that is said."""
    folder = write(tmp_path, template=None, eos_token="<eos>")
    tools = {"name": "tools", "template": "this"}
    change(
        folder,
        "tokenizer_config.json",
        chat_template=[tools, {"name": "default", "template": WHAT_IS}],
    )
    assert tokenizer_lib.load(folder).encode_prompt("calm") == ids("what is calm")
    change(folder, "tokenizer_config.json", chat_template=[tools])
    with pytest.raises(ValueError, match=r"_config.json has no template called 'defa"):
        tokenizer_lib.load(folder).encode_prompt("calm")


def test_a_template_that_no_tokenizer_reads(tmp_path):
    """Prompts would be plain, in silence; the remedy works."""
    folder = write(tmp_path, template=None, eos_token="<eos>")
    text = json.dumps({"chat_template": "what is"})
    (folder / "chat_template.json").write_text(text)
    with pytest.raises(ValueError, match=r"chat_template.json is read by no tokenizer"):
        tokenizer_lib.load(folder)
    (folder / "chat_template.jinja").write_text(WHAT_IS)
    assert tokenizer_lib.load(folder).encode_prompt("calm") == ids("what is calm")


@pytest.mark.parametrize("mode", ["chat", "plain"])
def test_half_a_character_is_refused(chat, mode):
    with pytest.raises(ValueError, match=r"half a character, '\\ud83d' in '.*what"):
        chat.encode_prompt("what \ud83d is", chat_template=mode)
    with pytest.raises(ValueError, match="half a character"):
        chat.encode("\udcff")
    with pytest.raises(ValueError, match="half a character"):
        tokenizer_lib.load(chat.folder, stop=["\ud800"])


def test_long_prompts_are_cut_in_messages(tmp_path):
    folder = write(tmp_path, template="{{ raise_exception('no') }}", eos_token="<eos>")
    with pytest.raises(ValueError, match="refuses") as error:
        tokenizer_lib.load(folder).encode_prompt("what " * 10_000)
    assert len(str(error.value)) < 500


# --- a padding token that the model does not have -----------------------------------


def test_a_pad_token_beyond_the_model_is_done_without(tmp_path):
    folder = write(tmp_path, eos_token="<eos>", pad_token="[PAD]")
    tokenizer, V = tokenizer_lib.load(folder), len(IDS)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (V, V + 1)
    within = tokenizer.within(V)
    assert (within.pad_id, within.vocab_size) == (IDS["<eos>"], V)
    assert within.encode_prompt("what is") == tokenizer.encode_prompt("what is")
    assert within.unused_ids(V) == ()
    assert within.fingerprint()
    # No prompt can hold it, in either mode; where the model has a row, any can.
    for mode in ("chat", "plain"):
        with pytest.raises(ValueError, match=r"holds '\[PAD\]', token 13 of the"):
            within.encode_prompt("what [PAD] is", chat_template=mode)
    assert tokenizer.within(V + 1) is tokenizer
    assert V in tokenizer.encode("what [PAD] is")


def test_other_tokens_beyond_the_model_count(tmp_path):
    """They are no padding: the model is of another tokenizer, says `check_model`."""
    folder = write(
        tmp_path, eos_token="<eos>", pad_token="[PAD]", special=[*SPECIAL, "<more>"]
    )
    assert tokenizer_lib.load(folder).within(len(IDS)).vocab_size > len(IDS)
    # Nor is an end token: the policy could never end.
    folder = write(tmp_path / "b", eos_token="[END]", pad_token="[END]")
    assert tokenizer_lib.load(folder).within(len(IDS)).vocab_size > len(IDS)


def test_no_stop_at_all(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="names no end token"):
        tokenizer_lib.load(tmp_path)
    assert tokenizer_lib.load(tmp_path, stop=["a"]).stop_ids == (0,)


def test_no_tokenizer_in_the_folder(tmp_path):
    (tmp_path / "tokenizer.json.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"neither tokenizer.json .* unpacked"):
        tokenizer_lib.load(tmp_path)


def test_save_copies_the_files(tmp_path):
    source = write(tmp_path / "in", eos_token="<eos>", pad_token="<pad>")
    loaded, out = tokenizer_lib.load(source), tmp_path / "out"
    out.mkdir()
    loaded.save(out)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in source.iterdir()
    }
    again = tokenizer_lib.load(out)
    assert again.stop_ids == loaded.stop_ids
    assert again.encode_prompt("what") == loaded.encode_prompt("what")
    shutil.rmtree(source)
    with pytest.raises(ValueError, match="files are gone from"):
        loaded.save(out)


def test_save_of_a_tokenizer_built_in_memory(tmp_path, chat):
    built = tokenizer_lib.Tokenizer(chat.backend, chat.stop_ids, chat.pad_id)
    (tmp_path / "out").mkdir()
    built.save(tmp_path / "out")
    again = tokenizer_lib.load(tmp_path / "out")
    assert again.encode_prompt("what is") == chat.encode_prompt("what is")
    assert again.stop_ids == chat.stop_ids


def test_imports_no_jax():
    code = "import sys, hapo_jax.model.tokenizer; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


# --- the real tokenizers ------------------------------------------------------------


def real_folder(tmp_path, name, *, template=None, **tokenizer_config):
    """A folder as on the hub, from the stored parts."""
    source = MODELS / f"{name}_tokenizer"
    if not source.is_dir():
        pytest.skip(f"no {source}; set HAPO_DATA_DIR")
    packed = source / "tokenizer.json.gz"
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    for file in ("tokenizer_config.json", "generation_config.json"):
        if (source / file).is_file():
            shutil.copyfile(source / file, tmp_path / file)
    if template:
        shutil.copyfile(source / template, tmp_path / "chat_template.jinja")
    if tokenizer_config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return tmp_path, source


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3", {}),
        ("llama3", {"eos_token": "<|eot_id|>"}),
        ("gpt2", {"eos_token": "<|endoftext|>"}),
    ],
)
def test_real_ids(tmp_path, name, options):
    folder, source = real_folder(tmp_path, name, **options)
    tokenizer = tokenizer_lib.load(folder)
    lines = (source / "golden_ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 100
    for line in map(json.loads, lines):
        assert tokenizer.encode(line["text"]) == line["ids"], line["text"]
        if name == "gpt2":  # the others normalise, or drop what is special
            assert tokenizer.decode(line["ids"], keep_special=True) == line["text"]


def test_real_qwen3_chat(tmp_path):
    folder, _ = real_folder(tmp_path, "qwen3", template="chat_template.jinja")
    tokenizer = tokenizer_lib.load(folder)
    assert tokenizer.stop_ids == (151645, 151643)  # <|im_end|>, <|endoftext|>
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (151643, 151669)
    opening = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer.encode_prompt("Hi")
    assert tokenizer.decode(prompt, keep_special=True) == opening
    assert prompt[0] == 151644
    quiet = tokenizer.encode_prompt("Hi", template_options={"enable_thinking": False})
    text = tokenizer.decode(quiet, keep_special=True)
    assert text == opening + "<think>\n\n</think>\n\n"


def test_real_llama32_dates(tmp_path):
    """The template of Llama 3.1 asks for no time; that of 3.2 differs in this."""
    folder, source = real_folder(
        tmp_path, "llama3", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )
    text = (source / "chat_template_llama3.1.jinja").read_text(encoding="utf-8")
    fixed = '    {%- set date_string = "26 Jul 2024" %}\n'
    asking = (
        "    {%- if strftime_now is defined %}\n"
        '        {%- set date_string = strftime_now("%d %b %Y") %}\n'
        f"    {{%- else %}}\n    {fixed}    {{%- endif %}}\n"
    )
    assert fixed in text
    path = folder / "chat_template.jinja"
    path.write_text(text, encoding="utf-8")
    expected = tokenizer_lib.load(folder).encode_prompt("Hi")
    path.write_text(text.replace(fixed, asking), encoding="utf-8")
    tokenizer = tokenizer_lib.load(folder)
    with pytest.raises(ValueError, match="asks for the time"):
        tokenizer.encode_prompt("Hi")
    day = {"date_string": "26 Jul 2024"}
    assert tokenizer.encode_prompt("Hi", template_options=day) == expected
    other = tokenizer.encode_prompt(
        "Hi", template_options={"date_string": "1 Jan 2026"}
    )
    assert "Today Date: 1 Jan 2026" in tokenizer.decode(other)


def test_real_llama3_chat(tmp_path):
    folder, _ = real_folder(
        tmp_path,
        "llama3",
        template="chat_template_llama3.1.jinja",
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
    )
    tokenizer = tokenizer_lib.load(folder)
    assert tokenizer.stop_ids == (128001, 128009)  # <|end_of_text|>, <|eot_id|>
    assert tokenizer.pad_id == 128001
    prompt = tokenizer.encode_prompt("Hi")
    assert prompt.count(128000) == 1 == prompt.index(128000) + 1
    end = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(prompt, keep_special=True).endswith(end)
    plain = tokenizer.encode_prompt("Hi", chat_template="plain")
    assert plain == [128000, *tokenizer.encode("Hi")]
