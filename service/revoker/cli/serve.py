"""`revoker serve`."""

import os
from typing import TYPE_CHECKING

from revoker import logs
from revoker.cli import development
from revoker.cli.configuration import ConfigOption, check_files, is_development, load_settings
from revoker.config.schema import Settings
from revoker.server import workers
from revoker.store.embedded import folder_of
from revoker.tracing import environment

if TYPE_CHECKING:
    from revoker.app import Service


def serve(config: ConfigOption = None) -> None:
    """Run the service. Without any configuration, it uses a development setup in .revoker/."""
    logs.configure(background=True)
    environment.check(os.environ)
    setup = development.prepare(os.environ) if is_development(config) else None

    def ready(url: str) -> None:
        if setup is not None:
            logs.write_text(development.welcome(setup, url))

    settings = load_settings(config) if setup is None else setup.settings
    check_files(settings)
    url = settings.redis.url
    workers.run(
        workers.Plan(
            settings=settings,
            reload_settings=lambda: load_settings(config),
            build=_build,
            ready=ready,
            embedded_folder=folder_of(url) if url.startswith("embedded:") else None,
        )
    )


def _build(settings: Settings) -> "Service":
    from revoker import app  # noqa: PLC0415  # imports prometheus_client; see workers.Plan

    return app.Service(settings, spans=environment.spans_for(os.environ))
