"""Carries the task specifications, which live at the top of the repository, into the built package."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TaskSpecificationHook(BuildHookInterface):
    """Adds `tasks_spec/` to a wheel (inside the package) and to a source distribution (beside it).

    A wheel is built either from the repository, where the specifications are two levels up, or from an
    unpacked source distribution, where they lie beside this file. An editable install reads them from
    the repository, so it carries none.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the folder to what is built, unless the install is editable."""
        root = Path(self.root)
        source = next((p for p in (root / "tasks_spec", root.parents[1] / "tasks_spec") if p.is_dir()), None)
        if source is None:
            raise FileNotFoundError("tasks_spec/ is neither beside this package nor two levels up")
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"][str(source)] = "metarl_envs/tasks_spec"
        elif self.target_name == "sdist" and source.parent != root:
            build_data["force_include"][str(source)] = "tasks_spec"
