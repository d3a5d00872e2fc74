"""Begin a project of one's own in an empty folder.

    mixpanel-pipeline init

It writes the settings (.dlt/config.toml), the secrets (.dlt/secrets.toml, for this user alone and
not for git) and a dbt project: the metrics that are counted, a model and its tests. Files that are
there already stay as they are, so it may be run again to get back what is missing.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from mixpanel_pipeline import project
from mixpanel_pipeline.cli.change import parser_of
from mixpanel_pipeline.source.errors import ConfigurationError

_TEMPLATES = Path(__file__).resolve().parents[1] / "new_project"
# Names that a repository or a build would take for its own.
_NAMES = {
    "config.toml": ".dlt/config.toml",
    "gitignore": ".gitignore",
    "secrets.toml": ".dlt/secrets.toml",
}


def init(arguments: Sequence[str]) -> int:
    """Write the files that are not there.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError: The folder cannot be written, or is a checkout, which is a project.
    """
    parser = parser_of("init", __doc__ or "", plain=True)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="instead of the current one"
    )
    folder = parser.parse_args(arguments).folder.absolute()
    if not project.IS_INSTALLED:
        raise ConfigurationError(
            "A checkout is a project already: copy .dlt/secrets.toml.example to .dlt/secrets.toml "
            "and declare metrics in dbt_project/dbt_project.yml. `init` belongs to the installed "
            "command, mixpanel-pipeline."
        )
    try:
        for template in sorted(path for path in _TEMPLATES.rglob("*") if path.is_file()):
            name = template.relative_to(_TEMPLATES).as_posix()
            _write(folder, _NAMES.get(name, name), template.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename} cannot be written: {error.strerror}. What is there already was left "
            "as it is; run it again where this user may write."
        ) from error
    print(
        "Next: fill in .dlt/secrets.toml, declare your metrics in dbt_project/dbt_project.yml, and "
        f"run: {project.COMMAND} check"
    )
    return 0


def _write(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rights = 0o600 if path.name == "secrets.toml" else 0o666
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights)
    except FileExistsError:
        print(f"kept     {name}")
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    print(f"written  {name}")
