"""Files that are written whole."""

import os
from pathlib import Path


def replace_file(path: Path, text: str, option: str) -> None:
    """Replace the file: who reads it finds the old text or the new.

    Raises:
        ConfigurationError: It cannot be written; the message begins with the option that names it.
    """
    from mixpanel_pipeline.source.errors import ConfigurationError

    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ConfigurationError(f"{option} {path}: {error.strerror}") from error
