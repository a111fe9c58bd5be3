"""Settings of the docs site: `make docs`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import stan_jax  # noqa: E402

project = "stan_jax"
author = "the stan_jax authors"
release = stan_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_show_copyright = False
html_title = f"stan_jax {release}"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
# The pages are read in the repository as well, and point to files beside docs/.
suppress_warnings = ["myst.xref_missing"]


def write_api(app):
    """Write a page for each room of the package, of its docstrings."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / "stan_jax").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not path.stem.startswith("__") and "configs" not in path.parts:
            room = path.parent.name if path.parent != ROOT / "stan_jax" else "files"
            rooms.setdefault(room, []).append(name)
    for room, modules in rooms.items():
        lines = [f"stan_jax.{room}" if room != "files" else "stan_jax, single files"]
        lines += ["=" * len(lines[0]), ""]
        for name in modules:
            lines += [name, "-" * len(name), ""]
            lines += [f".. automodule:: {name}", "   :members:", ""]
        text = "\n".join(lines)
        page = folder / f"{room}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def as_rst(app, what, name, obj, options, lines):
    """Turn a docstring of the house into reStructuredText, in place.

    `code` becomes literal, indented lines become a block of code, and what stands under
    Args: a list; see CONTRIBUTING.md for the form.
    """
    found, result, inside = list(lines), [], None
    for line in found:
        line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if bare in ("Args:", "Result:"):
            result += ["", f"**{bare[:-1]}**", ""]
            inside = "args"
        elif inside == "args" and indent == 2:
            term, _, text = bare.partition(": ")
            result += [f"* **{_escaped(term)}**: {_escaped(text)}"]
        elif inside == "args" and indent > 2:
            result += [f"  {_escaped(bare)}"]
        elif indent >= 4 and bare:
            if inside != "code":
                result += ["", "::", ""]
            inside = "code"
            result += [line]
        elif not bare:
            result += [""]
        else:
            if inside:
                result += [""]
            inside = None
            if bare.startswith(("Raises:", "Source:", "Sources:")):
                result += [""]
            result += [_escaped(bare)]
    lines[:] = result


def _escaped(text):
    """Text whose stars, bars and trailing underscores mean themselves."""
    parts = re.split(r"(``.*?``)", text)
    parts[::2] = [re.sub(r"([*|]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def skipped(app, what, name, obj, skip, options):
    """Leave out the fields of records: their signature and Args: name them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Connect them."""
    app.connect("autodoc-skip-member", skipped)
    app.connect("builder-inited", write_api)
    app.connect("autodoc-process-docstring", as_rst)
