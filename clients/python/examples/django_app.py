"""REVOKER_URL=… REVOKER_SECRET=… uvicorn django_app:app, or gunicorn django_app:wsgi

One file for the example; the settings are what counts. /orders is a view of Django, /api/orders one of
Django REST framework.
"""

import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["revoker_client.django.RevokerMiddleware"],
    REVOKER_URL=os.environ["REVOKER_URL"],
    REVOKER_SECRET=os.environ["REVOKER_SECRET"],
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["revoker_client.drf.RevokerAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.decorators import api_view, permission_classes  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402

from revoker_client.django import token_required  # noqa: E402
from revoker_client.drf import has_scopes  # noqa: E402


@token_required()
def orders(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"user": request.token.sub})


@token_required("orders:write")
async def order(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"ordered_by": request.token.sub})


def health(_: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@api_view(["GET"])
def api_orders(request: Request) -> Response:
    return Response({"user": request.user.username})


@api_view(["POST"])
@permission_classes([has_scopes("orders:write")])
def api_order(request: Request) -> Response:
    return Response({"ordered_by": request.auth.sub})


urlpatterns = [
    path("orders", orders),
    path("orders/new", order),
    path("health", health),
    path("api/orders", api_orders),
    path("api/orders/new", api_order),
]
app = get_asgi_application()
wsgi = get_wsgi_application()
