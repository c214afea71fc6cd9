"""
The router of the admin API's routes.
"""

from fastapi import APIRouter, Depends

from galenic_server.http.auth import AdminRoute, bearer


class StreamedRoute(AdminRoute):
    """Leaves its body to the route, which reads it piece by piece."""

    reads_body_first = False


def admin_router(
    prefix: str = "/admin/v1", route_class: type[AdminRoute] = AdminRoute
) -> APIRouter:
    return APIRouter(
        prefix=prefix, tags=["admin"], route_class=route_class, dependencies=[Depends(bearer)]
    )
