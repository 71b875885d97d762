"""Chat messages of prompts: which are refused, and whether a template wrote them all.

A template is a program of somebody else. It drops a role that it does not know (`human`
for `user`) and closes an assistant's message that was to be continued, all without a
word: the policy would be trained on prompts without their problem. `tokenizer.py` calls
this around every prompt.
"""

import json
import re
from collections.abc import Mapping, Sequence

from hapo_jax.system.errors import Refused

Message = Mapping[str, str]

# Marks of turns in the chat formats that are about. Where a vocabulary has one,
# somebody has trained or means to train on turns.
TURN_TOKENS = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start|>",
    "[INST]",
    "<|user|>",
    "<|assistant|>",
    "<|User|>",
    "<｜User｜>",
    "<|START_OF_TURN_TOKEN|>",
)
# The first of them that are never written as ordinary text.
_NEVER_TEXT = TURN_TOKENS[:4]

_PLAIN_ROLES = ("system", "user")
# Names that other formats give to the roles of chat templates.
_ALIASES = {"human": "user", "gpt": "assistant", "model": "assistant"}
_THOUGHTS_END = "</think>"


def with_system(prompt: str | Sequence[Message], system: str) -> list[Message]:
    """The messages of a prompt behind a system message; text is the user's.

    Raises:
      Refused: the prompt has a system message of its own.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if any(message.get("role") == "system" for message in prompt):
        raise Refused(
            "the prompt has a system message of its own, and task.system_prompt="
            f"{short(system)} would be a second; leave one of them out."
        )
    return [{"role": "system", "content": system}, *prompt]


def check(messages: Sequence[Message], *, plain: bool) -> None:
    """Refuses messages that no policy could answer as they are meant.

    Args:
      messages: of one prompt.
      plain: whether they become plain text, without a template.

    Raises:
      Refused: a role or content is no text, a content is empty (a system message
        may be, to do without a template's own), there is no message of a user, or the
        last is an assistant's.
    """
    roles = [message.get("role") for message in messages]
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise Refused(
                f"message {number} of {len(messages)} must have the texts role and "
                f"content, got {short(dict(message))}; write them out."
            )
        if not content.strip() and role != "system":
            raise Refused(
                f"message {number} ({role}) has an empty content; fill it in or drop "
                "the row."
            )
    if roles and roles[-1] == "assistant":
        if plain:
            raise Refused(
                f"a plain prompt cannot hold an assistant message, found {roles=}; use "
                "chat_template='chat', and let the user have the last word."
            )
        raise Refused(
            f"the prompt ends with an assistant message ({roles=}), whose turn the "
            "template would close before the policy begins another; let the user have "
            "the last word: drop that message, or ask in the user's for such a start."
        )
    if "user" not in roles:
        raise Refused(
            f"the prompt has no message of the role 'user' ({roles=}){_hint(roles)}; "
            "rename the role."
        )
    unknown = [role for role in roles if role not in _PLAIN_ROLES]
    if plain and unknown:
        raise Refused(
            f"a plain prompt cannot hold {_a(unknown[0])} message, found {roles=}"
            f"{_hint(unknown)}; use chat_template='chat', or drop the message."
        )


def check_rendered(messages: Sequence[Message], text: str, template: str) -> None:
    """Refuses a rendered prompt in which a message is missing.

    Args:
      messages: that were given to the template.
      text: what it made of them.
      template: which one, for the message.

    Raises:
      Refused: names the message that is not there.
    """
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"].strip()
        if role == "assistant":
            # What was thought in earlier turns is left out on purpose.
            content = content.rpartition(_THOUGHTS_END)[2].strip()
        if content in text:
            continue
        if role != "user" and json.dumps(content, ensure_ascii=False)[1:-1] in text:
            continue  # as some write what a tool has said
        raise Refused(
            f"{template} leaves out or rewrites message {number} of {len(messages)}, "
            f"of the role {role!r} ({short(content)}){_hint([role])}: the policy would "
            "not see it. Rename the role to one that the template knows (user, "
            "system), drop the message, or mend the template."
        )


def probes(messages: Sequence[Message]) -> list[Message]:
    """The same roles with contents that occur nowhere else, not even by chance."""
    return [
        {"role": message["role"], "content": f"zq{number}probe"}
        for number, message in enumerate(messages)
    ]


def foreign_tokens(template: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Marks of turns that a template writes and a vocabulary does not have."""
    return [t for t in _NEVER_TEXT if t in template and t not in vocabulary]


def short(value: object) -> str:
    """A value for a message, cut in the middle where it is long."""
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 80 else f"{text[:50]} … {text[-25:]}"


def _a(role: str) -> str:
    return f"an {role}" if role[:1] in "aeiou" else f"a {role}"


def _hint(roles: Sequence[str]) -> str:
    """What a role of another format is called here."""
    found = [(r, _ALIASES[r]) for r in roles if r in _ALIASES]
    return f" (did you mean {found[0][1]!r} for {found[0][0]!r}?)" if found else ""
