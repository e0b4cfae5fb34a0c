"""django-oauth-toolkit as its own tutorial sets it up, in one file; its tokens lie in SQLite.

``python django_service.py TOKENS`` makes the tables, and tokens, one a line; the first is a resource
server's own. Environment: DATABASE, a file.
"""

import os
import secrets
import sys
from datetime import timedelta
from pathlib import Path

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["DATABASE"],
            "CONN_MAX_AGE": None,
        }
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    LOGGING_CONFIG=None,
    OAUTH2_PROVIDER={"SCOPES": {"read": "Read", "introspection": "Introspect"}},
    ROOT_URLCONF="django_service",
    SECRET_KEY=secrets.token_urlsafe(),
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils import timezone  # noqa: E402
from oauth2_provider.models import AccessToken, Application  # noqa: E402
from oauth2_provider.views import IntrospectTokenView  # noqa: E402

application = get_wsgi_application()
urlpatterns = [
    path("introspect", IntrospectTokenView.as_view()),
    path("readyz", lambda _: HttpResponse("ready")),
]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    client = Application.objects.create(
        name="bench",
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
    )
    tokens = [secrets.token_urlsafe(22) for _ in range(2001)]
    expires = timezone.now() + timedelta(hours=6)
    for place, token in enumerate(tokens):
        scope = "read" if place else "introspection"
        AccessToken.objects.create(token=token, application=client, scope=scope, expires=expires)
    Path(sys.argv[1]).write_text("\n".join(tokens))
