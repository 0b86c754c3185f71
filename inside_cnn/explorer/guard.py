"""Who may talk to the page: the browser that shows it, and to what of gradio."""

from urllib.parse import unquote, urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
ANYWHERE = ("0.0.0.0", "::")
# What this page has no use for: gradio would fetch addresses, send files, keep runs.
CLOSED = ("file", "proxy", "stream", "runs", "process_recording", "deep_link", "component_server")


class Guard:
    """An ASGI middleware.

    Refuses, with 403, names of the host that are not the page's own (a foreign name may lead to
    127.0.0.1), other sites' requests, and CLOSED routes.
    """

    def __init__(self, app, host):
        self.app = app
        self.hosts = None if host in ANYWHERE else {*LOCAL, host}

    async def __call__(self, scope, receive, send):
        if scope["type"] in ("http", "websocket") and not self.allows(scope):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"refused"})
            return
        await self.app(scope, receive, send)

    def allows(self, scope):
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        try:
            named = urlsplit(f"//{host}").hostname
            foreign = origin is not None and urlsplit(origin).netloc != host
        except ValueError:
            return False
        route = unquote(scope["path"]).lstrip("/").removeprefix("gradio_api/")
        closed = route.startswith(tuple(f"{name}{end}" for name in CLOSED for end in "=/")) or (
            route in CLOSED
        )
        return (self.hosts is None or named in self.hosts) and not foreign and not closed
