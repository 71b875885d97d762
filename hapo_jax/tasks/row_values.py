"""Values of a row's fields: read as what they must be, or refused by row and field."""

import math
from typing import Any

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

Row = dict[str, Any]


def get(row: Row, field: str) -> Any:
    """The value of a field, `a.b` being b in the object a; None where there is none."""
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def text(value: Any, field: str, where: str) -> str:
    """A field that must be a text with something in it.

    Raises:
      Refused: it is not, or holds half a character.
    """
    if not isinstance(value, str) or not value.strip():
        raise Refused(
            f"{where}: field {field!r} must be a non-empty text, got "
            f"{user_files.short(value)}; fill it in or drop the row."
        )
    return whole(value, field, where)


def whole(value: str, field: str, where: str) -> str:
    """A text that can be written as UTF-8.

    Raises:
      Refused: it holds a lone surrogate, which JSON can escape and no tokenizer
        reads.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            f"{where}: field {field!r} has half a character at place {error.start} "
            f"(a lone surrogate, {value[error.start]!a}); write it again from its "
            "source, or drop the row."
        ) from None
    return value


def check_texts(value: Any, field: str, where: str) -> None:
    """`whole` for all texts in a value."""
    if isinstance(value, str):
        whole(value, field, where)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_texts(item, f"{field}[{i}]", where)
    elif isinstance(value, dict):
        for key, item in value.items():
            whole(key, field, where)
            check_texts(item, f"{field}.{key}", where)


def identifier(value: Any, field: str, where: str) -> str | None:
    """An id as text; None where there is none. Whole numbers become their digits.

    Raises:
      Refused: it is something else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Refused(
            f"{where}: field {field!r} must be a text or a whole number, got "
            f"{user_files.short(value)}; correct it, or leave it out by `columns`, as "
            "in id=."
        )
    return whole(value, field, where) if value.strip() else None


def messages(value: Any, field: str, where: str) -> list[dict[str, str]]:
    """Chat messages, checked, with role and content only.

    Understood are `role` and `content` (a text, or a list of parts that are text) and
    ShareGPT's `from` and `value`.

    Raises:
      Refused: they are something else, such as calls of tools.
    """
    if not isinstance(value, list) or not value:
        raise Refused(
            f"{where}: field {field!r} must be a text, or a list of messages with the "
            f"texts role and content, got {user_files.short(value)}; correct the row."
        )
    return [
        _message(message, f"{field}[{i}]", where) for i, message in enumerate(value)
    ]


# ShareGPT's names of those who speak.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def _message(message: Any, field: str, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        message = {}
    if "role" not in message and "from" in message:
        speaker, content = message["from"], message.get("value")
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise Refused(
                f"{where}: {field}.from must be one of {', '.join(_SPEAKERS)}, got "
                f"{user_files.short(speaker)}; drop the row, or write role and content."
            )
    else:
        role, content = message.get("role"), message.get("content")
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused(
            f"{where}: {field} calls a tool, which is not supported; write the call "
            "into its content, or drop the row."
        )
    if isinstance(content, list) and content:
        parts = [
            part.get("text")
            if isinstance(part, dict) and part.get("type") == "text"
            else None
            for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            content = "".join(parts)
    if not isinstance(role, str) or not isinstance(content, str):
        raise Refused(
            f"{where}: {field} must be a message with the texts role and content, got "
            f"{user_files.short(message)}; correct the row."
        )
    return {
        "role": whole(role, f"{field}.role", where),
        "content": whole(content, f"{field}.content", where),
    }
