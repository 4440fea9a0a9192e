"""Writing a result so that a reader never finds half of it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder, which replaces `path` when the block succeeds.

    The folder is created if it is missing. When the block raises, `path` is as it was and the
    temporary file is gone.

    Args:
        path: The file to write.

    Yields:
        Where to write it. The name ends like that of `path`, since some writers go by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # tempfile would make the file readable by its owner only, and the result would stay so.
    temporary = target.with_name(f".{uuid.uuid4().hex}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def readable_json(value: Any, indent: str = "") -> str:
    """JSON text with a line per entry, but with each innermost list on one line.

    Numbers keep every digit, so reading the text gives the same values back.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON cannot say.
        TypeError: If a value is of a type that JSON does not know.
    """
    inner = indent + " "
    nested = (Mapping, list, tuple)
    if isinstance(value, Mapping) and value:
        entries = [f"{json.dumps(str(k))}: {readable_json(v, inner)}" for k, v in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list | tuple) and any(isinstance(v, nested) for v in value):
        entries = [readable_json(v, inner) for v in value]
        opening, closing = "[", "]"
    else:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    body = ",\n".join(inner + entry for entry in entries)
    return f"{opening}\n{body}\n{indent}{closing}"
