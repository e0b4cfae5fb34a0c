"""`revoker edge`."""

import os
from typing import TYPE_CHECKING

from revoker import logs
from revoker.cli.configuration import ConfigOption, check_files
from revoker.config.edge import EdgeSettings, load_edge
from revoker.server import workers

if TYPE_CHECKING:
    from revoker.edge import Edge


def edge(config: ConfigOption = None) -> None:
    """Run an edge: it answers like the service, from a copy in memory that follows the service's feed."""
    logs.configure(background=True)
    settings = load_edge(config, os.environ)
    check_files(settings)
    workers.run(
        workers.Plan(
            settings=settings,
            reload_settings=lambda: load_edge(config, os.environ),
            build=_build,
            ready=lambda _: None,
        )
    )


def _build(settings: EdgeSettings) -> "Edge":
    from revoker import edge as composition  # noqa: PLC0415  # imports prometheus_client; see workers.Plan

    return composition.Edge(settings)
