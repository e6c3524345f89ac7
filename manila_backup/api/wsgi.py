# SPDX-License-Identifier: Apache-2.0
"""The WSGI application: from a request to a handler's call and back to a response.

The order of what is checked is the order of what a stranger may learn: origin, route, version,
identity, method and version of the route, project, policy, query, body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from oslo_log import log as logging
from werkzeug import Request, Response
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge
from werkzeug.routing import BaseConverter, Map, MapAdapter, Rule

from manila_backup import exception
from manila_backup.api import validation, versions
from manila_backup.api.context import ENV_REQUEST_ID, Authenticator
from manila_backup.api.errors import HttpError, error_response, status_and_code
from manila_backup.api.request import ENV_DRY_RUN, ApiRequest, Reply, Services, allows
from manila_backup.api.route import Action, Route, RouteTable, by_path
from manila_backup.context import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")


class IdConverter(BaseConverter):
    """A path segment that can be an id or a name: printable, at most 255 characters.

    Anything else names nothing, so it is a 404 without asking the database (which may choke on it).
    """

    regex = r"[^/\x00-\x1f\x7f]{1,255}"


class Application:
    """Serves a route table. Shared by all threads of the server."""

    def __init__(
        self, routes: RouteTable, services: Services, authenticator: Authenticator
    ) -> None:
        self._services = services
        self._authenticator = authenticator
        self._max_body_bytes = services.settings.max_request_body_size_bytes
        self._map = _build_map(routes)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        # One more: of a body without a length Werkzeug silently drops what is beyond its limit.
        request.max_content_length = self._max_body_bytes + 1
        return self._respond(request)(environ, start_response)

    def _respond(self, request: Request) -> Response:
        experimental = _is_experimental(request)
        version = versions.MIN_VERSION
        try:
            self._authenticator.check_origin(request)
            version = versions.negotiate(dict(request.headers))
            response = self._dispatch(request, version, experimental=experimental)
        except Exception as error:  # noqa: BLE001 - the boundary of a request
            response = self._refuse(request, error)
        versions.stamp(response, version, experimental=experimental)
        # Manila's own name of the header, beside oslo.middleware's: its tempest tests want it.
        if request_id := request.environ.get(ENV_REQUEST_ID):
            response.headers["X-Compute-Request-Id"] = request_id
        return response

    def _refuse(self, request: Request, error: Exception) -> Response:
        request_id = request.environ.get(ENV_REQUEST_ID)
        status, code = status_and_code(error)
        if code == "internal":
            LOG.exception("Request %s failed unexpectedly", request_id)
        elif status >= 500:
            LOG.warning("Request %s refused (%s): %s", request_id, code, error)
        return error_response(error, request_id)

    def _dispatch(
        self, request: Request, version: versions.Version, *, experimental: bool
    ) -> Response:
        # Bound to no host: Werkzeug would decode the header's, which is the client's to invent.
        adapter = self._map.bind("localhost", path_info=request.path)
        matched = _match(adapter)
        if matched is not None and all(route.policies == () for route in matched[0]):
            # Version documents and the like: nobody need be known to read them.
            context = RequestContext(request_id=request.environ.get(ENV_REQUEST_ID))
        else:
            context = self._identify(request)
        if matched is None:
            raise exception.NotFound()
        routes, variables = matched
        route = _choose(routes, request.method, version, experimental=experimental)
        self._check_project(context, variables.pop("path_project_id", None))
        if route.policy is not None:
            self._authorize(context, route.policy)
        api_request = self._api_request(request, route, context, version)
        if route.actions:
            return self._act(request, route, api_request, variables, experimental=experimental)
        return self._call(request, route, api_request, variables)

    def _identify(self, request: Request) -> RequestContext:
        context = self._authenticator.context(request)
        # An administrator is whom the policy calls so, not whoever has a role of that name.
        context.is_admin = allows(self._services.enforcer, context, "context_is_admin")
        return context

    def _authorize(self, context: RequestContext, policy: str) -> None:
        if not allows(self._services.enforcer, context, policy):
            raise exception.PolicyNotAuthorized(action=policy)

    def _check_project(self, context: RequestContext, project_id: str | None) -> None:
        # Manila says 400 and these words, whether such a project exists or not.
        if project_id is not None and project_id != context.project_id:
            raise HttpError(400, "foreign_project_in_path", "Malformed request url")

    def _api_request(
        self, request: Request, route: Route, context: RequestContext, version: versions.Version
    ) -> ApiRequest:
        root = self._services.settings.public_endpoint or _root_url(request)
        root = root.rstrip("/")
        below = request.path.rstrip("/")
        prefix = f"/v2/{context.project_id}"
        return ApiRequest(
            context=context,
            version=version,
            services=self._services,
            url=root + quote(below),
            base_url=root + (prefix if below.startswith(f"{prefix}/") else "/v2"),
            arguments=request.args.to_dict(),
            query=validation.parse_query(request.args, route.query_schema, route.query_validator),
            dry_run=request.environ.get(ENV_DRY_RUN, False),
        )

    def _call(
        self, request: Request, route: Route, api_request: ApiRequest, variables: dict[str, Any]
    ) -> Response:
        validator = route.body_validator
        if validator is not None:
            body = self._read_body(request)
            validator.check(body)
            api_request = _with_body(api_request, body)
        assert route.handler is not None  # noqa: S101 - a table without one does not build
        return _response(route.handler(api_request, **variables), route.status)

    def _act(
        self,
        request: Request,
        route: Route,
        api_request: ApiRequest,
        variables: dict[str, Any],
        *,
        experimental: bool,
    ) -> Response:
        body = self._read_body(request)
        action = _choose_action(route, body, api_request.version, experimental=experimental)
        self._authorize(api_request.context, action.policy)
        value = body[action.name]
        action.validator.check(value, prefix=action.name)
        answer = action.handler(_with_body(api_request, value), **variables)
        return _response(answer, action.status)

    def _read_body(self, request: Request) -> dict[str, Any]:
        """:raises HttpError: 413 beyond the limit, also without Content-Length; 415."""
        try:
            data = request.get_data()
            if len(data) > self._max_body_bytes:
                raise RequestEntityTooLarge
        except RequestEntityTooLarge:
            raise HttpError(
                413,
                "body_too_large",
                f"Request is too large. At most {self._max_body_bytes} bytes are accepted.",
            ) from None
        except ClientDisconnected:
            raise exception.InvalidInput(
                field="body", reason="has fewer bytes than announced."
            ) from None
        # A web page may send text/plain or a form anywhere; only JSON needs the server's consent.
        if data and request.mimetype != "application/json":
            raise HttpError(
                415, "unsupported_media_type", "The Content-Type must be application/json."
            )
        return validation.parse_json(data)


def _root_url(request: Request) -> str:
    """The address of the service as the client wrote it.

    :raises HttpError: 400 for a Host header that is no host.
    """
    environ = request.environ
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    if not _HOST.fullmatch(host):
        raise HttpError(400, "malformed_host", "The Host header is malformed.")
    return f"{request.scheme}://{host}{request.root_path}"


def _is_experimental(request: Request) -> bool:
    return request.headers.get(versions.EXPERIMENTAL_HEADER, "").strip().lower() == "true"


def _build_map(routes: RouteTable) -> Map:
    rules = []
    for (path, unversioned), same_path in by_path(routes).items():
        for route in same_path:
            if (route.handler is None) == (route.actions == ()):
                raise ValueError(f"{route.method} {path}: either a handler or actions")
        if unversioned:
            rules.append(Rule(path, endpoint=tuple(same_path)))
        else:
            rules.append(Rule(f"/v2{path}", endpoint=tuple(same_path)))
            rules.append(Rule(f"/v2/<id:path_project_id>{path}", endpoint=tuple(same_path)))
    # No redirects: clients of this API do not follow them.
    return Map(rules, converters={"id": IdConverter}, strict_slashes=False, merge_slashes=False)


def _match(adapter: MapAdapter) -> tuple[tuple[Route, ...], dict[str, Any]] | None:
    try:
        routes, variables = adapter.match()
    except HTTPException:
        return None
    return routes, dict(variables)


def _choose(
    routes: tuple[Route, ...], method: str, version: versions.Version, *, experimental: bool
) -> Route:
    """:raises HttpError: 405. :raises NotFound: not in this version, as Manila."""
    wanted = "GET" if method == "HEAD" else method
    same_method = [route for route in routes if route.method == wanted]
    if not same_method:
        allowed = {route.method for route in routes}
        if "GET" in allowed:
            allowed.add("HEAD")
        raise HttpError(
            405,
            "method_not_allowed",
            "The method is not allowed for this resource.",
            {"Allow": ", ".join(sorted(allowed))},
        )
    for route in same_method:
        if route.fits(version) and (experimental or not route.experimental):
            return route
    raise exception.NotFound()


def _choose_action(
    route: Route, body: dict[str, Any], version: versions.Version, *, experimental: bool
) -> Action:
    """:raises InvalidInput: the body is not exactly one key that names an action.
    :raises NotFound: the action is not in this version, as Manila.
    """
    names = sorted({action.name for action in route.actions})
    if len(body) != 1:
        raise exception.InvalidInput(
            field="body", reason="must have exactly one key, one of " + ", ".join(names) + "."
        )
    (name,) = body
    same_name = [action for action in route.actions if action.name == name]
    if not same_name:
        raise exception.InvalidInput(
            field=validation.join("", [name]), reason="must be one of " + ", ".join(names) + "."
        )
    for action in same_name:
        in_range = action.min_version <= version <= action.max_version
        if in_range and (experimental or not action.experimental):
            return action
    raise exception.NotFound()


def _with_body(request: ApiRequest, body: Any) -> ApiRequest:
    return replace(request, body=body)


def _response(answer: Any, status: int) -> Response:
    headers: Mapping[str, str] = {}
    if isinstance(answer, Reply):
        status, headers, answer = answer.status, answer.headers, answer.body
    if answer is None:
        response = Response(status=status)
        response.headers.pop("Content-Type", None)
    else:
        response = Response(json.dumps(answer), status=status, content_type="application/json")
    response.headers.update(headers)
    return response
