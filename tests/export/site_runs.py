"""The page of `stan export --format web`: its files, and a server for a browser."""

import http.server
import json
import shutil
import subprocess
import threading

import pytest

from stan_jax.errors import InputError
from stan_jax.export import web_folder

WAIT = 120  # seconds

# Looks into the page until it says what is looked for, and sends what it shows.
WATCH = """<!doctype html><iframe src="index.html{query}" width="900" height="700"
 allow="camera"></iframe><script>
const page = document.querySelector("iframe"), asked = [];
const seen = setInterval(() => {{
  const of = page.contentDocument, status = of?.getElementById("status");
  if (!status || !({until})(status)) return;
  clearInterval(seen);
  const text = id => of.getElementById(id).innerText;
  fetch("seen", {{ method: "POST", body: JSON.stringify({{
    status: status.textContent, wrong: status.className, rows: text("rows"),
    facts: text("facts"),
    size: ["height", "width"].map(x => of.getElementById("view")[x]),
    asked: page.contentWindow.performance.getEntriesByType("resource").map(x => x.name),
  }}) }});
}}, 50);
</script>"""


def runtime():
    """The folder of the runtime's files, or a skipped test."""
    try:
        return web_folder._runtime(None)
    except InputError as error:
        pytest.skip(str(error))


def program(*names):
    """The path of the first of these programs that is there, or a skipped test."""
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"{names[0]} is not installed")


def in_node(folder, code):
    """What a module of JavaScript in a folder of the page prints, read as json."""
    path = folder / "check.mjs"
    path.write_text(code)
    line = [program("node"), str(path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout.splitlines()[-1])


def in_chromium(folder, profile, query="", until="s => s.className === 'wrong'"):
    """What the page shows when its status line is as wanted.

    query: of its address. until: JavaScript, true for the element of that line.
    """
    (folder / "watch.html").write_text(WATCH.format(query=query, until=until))
    seen, there = {}, threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_POST(self):
            length = int(self.headers["content-length"])
            seen.update(json.loads(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()
            there.set()

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    options = "--headless=new --no-sandbox --disable-gpu --autoplay-policy="
    options += "no-user-gesture-required --use-fake-device-for-media-stream "
    options += "--use-fake-ui-for-media-stream"
    chromium = program("chromium", "chromium-browser", "google-chrome")
    line = [chromium, *options.split(), f"--user-data-dir={profile}"]
    browser = subprocess.Popen(
        [*line, f"{address}watch.html"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert there.wait(WAIT), "the page never came to it"
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()
    assert all(name.startswith(address) for name in seen["asked"]), seen["asked"]
    return seen
