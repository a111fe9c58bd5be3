"""The page of `stan export --format web`: its files, and a server for a browser."""

import shutil
import subprocess

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
