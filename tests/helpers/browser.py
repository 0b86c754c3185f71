"""Pages in headless Chromium."""

import contextlib


@contextlib.contextmanager
def pages_of(browser, ready):
    """A function (path, fragment, options of a browser context) -> the page, once ready.

    ready: selector of an element of a page that is ready. Pages may not report an error or request
    anything but themselves.
    """
    problems, contexts = [], []

    def call(path, fragment="", **options):
        def note(request):
            if not request.url.startswith((path.as_uri(), "blob:", "data:")):
                problems.append(request.url)

        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", note)
        page.goto(f"{path.as_uri()}#{fragment}")
        page.locator(ready).wait_for()
        return page

    yield call
    for context in contexts:
        context.close()
    assert problems == []
