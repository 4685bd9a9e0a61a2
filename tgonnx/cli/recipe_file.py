"""Options from a file: `--recipe FILE`, and what the folder of a run says of the command that began it.

Keys are the names of options without dashes before them, and of arguments. What the command line says wins. Paths are
those seen from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tgonnx.errors import OptionError, UsageError
from tgonnx.options import NO_CHOICE, nearest

RECIPE = "recipe.toml"  # in the folder of a run
ALONE = ("recipe", "resume", "help")  # make no sense in a file
OF_THE_RUN = ("run-dir", "no-run-dir")  # nor in that of a run
SHOWN = ("json", "quiet", "verbose", "no-color", "report")  # what is shown is up to who goes on
_SEVERAL = {"sweep", "max-drop"}
_PATHS = ("model", "data", "out", "report", "mask", "test", "classes")


@dataclass(frozen=True)
class Given:
    """What a command was given, typed, by key."""

    values: Mapping[str, Any]

    def keep(self, folder: Path) -> None:
        """Write it into the recipe of a run, in which all that was resolved stands, so that `--resume` needs no more.

        What was chosen where nothing was asked for is written out; what "auto" came to stands behind it. Raises
        UsageError.
        """
        from tgonnx.io.save import save_text
        from tgonnx.io.toml import as_text, read

        skipped = (*ALONE, *OF_THE_RUN, *SHOWN)
        own = {key: _absolute(key, value) for key, value in self.values.items() if key not in skipped}
        own = {key: value for key, value in own.items() if value not in (None, [], "")}
        resolved = {key: value for key, value in read(folder / RECIPE).items() if key in self.values}
        chosen = {key: str(value) for key, value in resolved.items() if own.get(key) == NO_CHOICE != value}
        if _SEVERAL & own.keys():
            resolved.pop("lr", None)  # each size has its own
        save_text(as_text(resolved | own, chosen), folder / RECIPE, overwrite=True)


NOTHING = Given({})


def from_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file says as defaults; before that of a run."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **_defaults(context, path)}
    return path


def from_run(context: typer.Context, folder: str) -> str:
    """Take what the command was given that began the run. Raises UsageError if there is none."""
    if folder and not Path(folder).is_dir():
        raise UsageError(f"{folder}: is not the folder of a run")
    if folder and (path := Path(folder) / RECIPE).is_file():
        context.default_map = {**_defaults(context, path), **(context.default_map or {})}
    return folder


RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE.toml",
        is_eager=True,
        callback=from_recipe,
        help="Options by name, as `tgonnx init` writes them; the command line wins.",
    ),
]


def keys(context: typer.Context) -> dict[str, str]:
    """The name of each parameter of the command by its key."""
    found = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        flags = [flag for flag in getattr(parameter, "opts", ()) if flag.startswith("--")]
        found[max(flags, key=len).removeprefix("--") if flags else name] = name
    return found


def blamed(context: typer.Context, error: OptionError) -> UsageError:
    """A wrong value, named as the file has it if it came from there."""
    source = context.get_parameter_source(error.option)
    if source is None or source.name != "DEFAULT_MAP":
        return error
    path = context.params.get("recipe_file") or Path(str(context.params.get("resume"))) / RECIPE
    return UsageError(f"{path}: {error.on_command_line().replace('--', '', 1)}")


def _defaults(context: typer.Context, path: Path) -> dict[str, Any]:
    """What the file says, by the name of the parameter. Raises UsageError for what is no option."""
    from tgonnx.io.toml import read

    known = {key: name for key, name in keys(context).items() if key not in ALONE}
    found = {}
    for key, value in read(path).items():
        if key in ALONE:
            raise UsageError(f"{path}: {key} belongs on the command line")
        if key not in known:
            raise UsageError(f"{path}: {context.info_name} has no option {key!r}{nearest(key, known)}")
        parameter = next(each for each in context.command.params if each.name == known[key])
        several = getattr(parameter, "multiple", False)
        if isinstance(value, dict) and not several:
            raise UsageError(f"{path}: {key} is a table; write {key} = VALUE")
        found[known[key]] = _as_given(_placed(path.parent, key, value), several)
    return found


def _as_given(value: Any, several: bool) -> Any:
    """A value as the command line writes it: `mean = [0.5, 0.4]` is 0.5,0.4, and `const = {sr = 16000}` sr=16000."""
    if isinstance(value, dict):
        return [f"{name}={_as_given(part, False)}" for name, part in value.items()]
    if isinstance(value, list) and not several:
        return ",".join(map(str, value))
    return [value] if several and not isinstance(value, list) else value


def _placed(folder: Path, key: str, value: Any) -> Any:
    """A path as seen from where the command runs."""
    return str(folder / value) if isinstance(value, str) and _is_path(key, value) else value


def _absolute(key: str, value: Any) -> Any:
    """A value as TOML has it, and good wherever the run goes on."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and value and _is_path(key, value):
        return str(Path(value).absolute())
    return list(value) if isinstance(value, tuple) else value


def _is_path(key: str, value: str) -> bool:
    """A loss and a metric may be files, too."""
    if value == NO_CHOICE:
        return False
    return (
        key in _PATHS or (key == "loss" and value.endswith(".onnx")) or (key == "metric" and ".py:" in value)
    )
