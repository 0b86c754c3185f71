import asyncio

import pytest

from inside_cnn.explorer.guard import Guard


def answer(own, path="/config", **headers):
    """The status that the guard of a page on `own` gives, 200 where it lets the request pass."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    asyncio.run(Guard(app, own)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("host", "named", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost:7860", 200),
        ("::1", "[::1]:7860", 200),
        ("127.0.0.1", "somewhere.example", 403),
        ("127.0.0.1", "127.0.0.1.somewhere.example", 403),
        ("127.0.0.1", "[broken", 403),
        ("127.0.0.1", "", 403),
        ("node7", "node7:80", 200),
        ("0.0.0.0", "any.example", 200),
    ],
)
def test_names_of_the_host(host, named, status):
    assert answer(host, host=named) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:1", 200),
        ("http://localhost:2", 403),
        ("https://somewhere.example", 403),
        ("null", 403),
    ],
)
def test_other_sites(origin, status):
    assert answer("127.0.0.1", host="localhost:1", origin=origin) == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/assets/file.js", 200),
        ("/gradio_api/upload", 200),
        ("/gradio_api/queue/join", 200),
        ("/gradio_api/file=/etc/passwd", 403),
        ("/gradio_api/file=http://192.0.2.1/", 403),
        ("/file/x", 403),
        ("//gradio_api/proxy=http://192.0.2.1/", 403),
        ("/gradio_api/runs", 403),
    ],
)
def test_routes(path, status):
    assert answer("127.0.0.1", path, host="localhost") == status
