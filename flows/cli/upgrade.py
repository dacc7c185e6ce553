"""``upgrade``: brings up to date what an older version left behind in settings, workspaces and deployments.

Each change is made as a whole or not at all, and none needs another: after a kill, the same command does the rest.
"""

import os
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from nelbo.data import SCHEMA_VERSION, atomic_path
from nelbo.flows.options.former import FORMER, without_former, without_former_lines
from nelbo.flows.options.options import UpgradeOptions
from nelbo.flows.options.sources import setting_of
from nelbo.flows.orchestration.execution import check_api, prefect_api
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.home import expand_home
from nelbo.flows.workspace.journal import opened
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.upgrade import old_engines, old_tables, upgrade_table

#: Suffix of the copy of a settings file.
_COPY = ".before-upgrade"


@dataclass(frozen=True)
class Change:
    """Something that is rewritten as this version would write it.

    change: what happens to it, in words.
    make: makes the change; returns False where the thing is in use and has to wait for the next time.
    """

    kind: str
    name: str
    change: str
    make: Callable[[], bool | None]


def upgrade(options: UpgradeOptions) -> dict[str, Any]:
    """Bring what an older version wrote up to date, or only list it; returns what the command prints.

    Raises:
        UsageError: something is of a newer version. Then nothing is changed.
    """
    workspace = opened(options.workspace)
    by_hand: list[str] = []
    # Collect everything before the first change: a newer version is refused here.
    changes = [*_tables(workspace, by_hand), *_settings(options, by_hand), *_deployments(workspace, by_hand)]
    by_hand += _engines(workspace)
    made = [change for change in changes if not options.apply or change.make() is not False]
    busy = [f"{change.name} is in use. Run the same command again" for change in changes if change not in made]
    return {
        "applied": options.apply,
        "n": len(made),
        "changes": [{"kind": one.kind, "name": one.name, "change": one.change} for one in made],
        "by_hand": by_hand + busy,
    }


def _tables(workspace: Workspace, by_hand: list[str]) -> Iterator[Change]:
    old = old_tables(workspace)
    if old and not isinstance(workspace.root, Path):
        by_hand.append(
            f"leave {len(old)} tables of older versions as they are: they can be read, and rewriting them in a store "
            "would give them new dates"
        )
        return
    for table in old:
        change = f"columns of schema version {SCHEMA_VERSION} instead of {table.version}"
        yield Change(table.kind, table.path, change, partial(upgrade_table, workspace, table))


def _settings(options: UpgradeOptions, by_hand: list[str]) -> Iterator[Change]:
    """Settings that are gone, in the file and in the environment."""
    names = (name for name in os.environ if setting_of(name) in FORMER)
    by_hand += [f"unset {name}: that setting is gone and has no effect" for name in sorted(names)]
    if options.config is None:
        return
    # A symbolic link stays one.
    file = Path(expand_home(options.config)).resolve()
    text = _read(file)
    if (kept := without_former_lines(text)) != text:
        gone = " and ".join(name for name in FORMER if name in tomllib.loads(text))
        yield Change("settings", str(file), f"without {gone}: gone since 0.2", partial(_write, file, kept))


def _read(file: Path) -> str:
    # `read_text` would change line endings.
    return file.read_bytes().decode("utf-8-sig")


def _write(file: Path, text: str) -> None:
    """Replace a settings file, and keep a copy of the old one beside it."""
    content = file.read_bytes()
    mark = content[: len(content) - len(_read(file).encode())]
    for number in count():
        copy = file.with_name(f"{file.name}{_COPY}{f'.{number}' if number else ''}")
        if copy.exists() and copy.read_bytes() != content:
            continue
        with atomic_path(copy) as unfinished:
            shutil.copy2(file, unfinished)
        break
    with atomic_path(file) as unfinished:
        unfinished.write_bytes(mark + text.encode())
        shutil.copymode(file, unfinished)


def _deployments(workspace: Workspace, by_hand: list[str]) -> Iterator[Change]:
    """Deployments of version 0.1 on the Prefect server, if there is one."""
    if prefect_api() is None:
        return
    try:
        check_api()
    except UsageError as error:
        by_hand.append(f"look at deployments once the server answers: {error}")
        return
    from nelbo.flows.orchestration.flows import FLOWS
    from nelbo.flows.orchestration.lines import find_deployments, former, of_workspace, update_former

    found = former(find_deployments(FLOWS))
    ours = of_workspace(found, str(workspace.root))
    for name, one in ours.items():
        schema = FLOWS[name.partition("/")[0]].parameters.model_dump(exclude_unset=True)
        make = partial(update_former, one, without_former(one.parameters), schema)
        yield Change("deployment", name, "runs the code under its current name", make)
    others = sorted({str(one.parameters.get("workspace")) for name, one in found.items() if name not in ours})
    by_hand += [f"deployments of workspace {other}: nelbo upgrade --workspace {shlex.quote(other)}" for other in others]


def _engines(workspace: Workspace) -> list[str]:
    return [
        f"engine {engine} of model {model_id} was made by 0.1, without an id to check it against: "
        f"nelbo export --model {model_id} --engine {engine}"
        for model_id, engine in old_engines(workspace)
    ]
