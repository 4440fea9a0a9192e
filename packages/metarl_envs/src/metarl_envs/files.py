"""Names of files, and atomic writing, so that a file is never incomplete."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: File systems allow 255 bytes; the names of files have more parts.
_LONGEST = 150


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder, which replaces `path` when the block succeeds.

    The folder is created if it is missing. If the block raises an error, `path` is not changed and
    the temporary file is removed.

    Args:
        path: The file to write.

    Yields:
        The temporary path. It has the same extension as `path`, because some writers depend on it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A file made by tempfile would be readable only by its owner, also after the renaming.
    temporary = target.with_name(f".{uuid.uuid4().hex}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """A text as the name of a file, or a part of one, which lies in the folder that it is joined to.

    Separators of folders, control characters and dots at the beginning become underscores; a long text is
    cut, and ends with a digest of the whole.
    """
    name = re.sub(r"[/\\:\x00-\x1f\x7f]|^\.+", "_", text) or "_"
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return name.encode()[: _LONGEST - len(digest)].decode(errors="ignore") + digest


def readable_json(value: Any, indent: str = "") -> str:
    """JSON text with one line per entry, and each innermost list on one line.

    Numbers keep all digits, so reading the text restores the same values.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON does not support.
        TypeError: If a value has a type that JSON does not support.
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
