"""Draw docs/stan.svg and docs/house.svg: `python docs/draw_figures.py`."""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
INK, PAPER, FAINT, STRONG = "#1f2937", "#ffffff", "#f3f4f6", "#4f46e5"
LEARNED, MEMORY, PLAIN = "#e0e7ff", "#fef3c7", "#ecfdf5"

# Lowest first, as in tests/test_layers.py: a floor imports from those below it only.
HOUSE = (
    (
        "errors, files, signals, compiling, json_stream, types",
        "records, shapes, broken files",
    ),
    ("ops", "boxes, NMS, RoIAlign, attention: array maths"),
    ("masks", "run lengths"),
    ("media", "videos, images and cameras as frames; mp4"),
    ("model", "what is learned: backbone, pyramid, STA, heads"),
    ("tracking", "memory queue, walk over frames, tracker"),
    ("runtimes", "exported trackers in onnxruntime, OpenVINO"),
    ("training", "losses, one update, devices"),
    ("annotations", "the official json and other formats"),
    ("loading", "annotations and frames as arrays"),
    ("shapes", "the demo's dataset"),
    ("metrics", "AP, HOTA, MOTA, IDF1"),
    ("results", "results.json, tracks.jsonl and what is made of them"),
    ("evaluation", "both files in, all scores out"),
    ("presets, configs", "other codes' conventions; one file an experiment"),
    ("published", "other people's weights"),
    ("pretrained", "a trained model on disk: record, load"),
    ("dealing, inference", "videos of a dataset become tracks"),
    ("video", "overlays, pages, reports"),
    ("export", "a tracker for other runtimes: JAX to ONNX"),
    ("planning", "programs compiled for machines elsewhere"),
    ("commands", "the subcommands of stan"),
    ("train.py, eval.py", "scripts that read from top to bottom"),
)


class Drawing:
    """An SVG that grows; sizes and places in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" font-family="Helvetica, Arial, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def box(self, x, y, w, h, text, below="", fill=LEARNED, stroke=INK):
        """Draw a box with one or two lines of text."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )
        middle = y + h / 2 + 5
        self.text(x + w / 2, middle - (9 if below else 0), text, weight="bold")
        if below:
            self.text(x + w / 2, middle + 10, below, size=12)

    def text(self, x, y, text, *, size=14, anchor="middle", weight="normal", fill=INK):
        """Write a line."""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
            f'font-weight="{weight}" fill="{fill}">{escape(text)}</text>'
        )

    def arrow(self, *points, dashed=False):
        """Draw a line with a tip through the points."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{INK}" '
            f'stroke-width="1.5"{dash} marker-end="url(#tip)"/>'
        )

    def end(self) -> str:
        """Return the file."""
        return "\n".join([*self.parts, "</svg>", ""])


def stan() -> str:
    """Return the figure of one frame's way through STAN."""
    d = Drawing(1000, 440, "One frame on its way through STAN")
    d.text(75, 108, "frame t", weight="bold")
    d.box(20, 118, 110, 66, "image", "uint8, RGB", FAINT)
    d.box(160, 118, 120, 66, "backbone", "and pyramid")
    d.arrow((130, 151), (160, 151))
    # The attention block, opened.
    d.parts.append(
        f'<rect x="310" y="30" width="330" height="240" rx="10" fill="none" '
        f'stroke="{STRONG}" stroke-width="2"/>'
    )
    d.text(475, 22, "spatio-temporal attention, a level", fill=STRONG, weight="bold")
    d.box(330, 50, 90, 44, "Conv2", "values")
    d.box(330, 129, 90, 44, "Conv1", "queries")
    d.box(330, 208, 90, 44, "Conv1", "keys")
    d.box(450, 158, 80, 60, "softmax", "Cor, Eq. 1", FAINT)
    d.box(450, 50, 80, 44, "A", "Eq. 2", FAINT)
    d.box(560, 50, 60, 44, "γ A", "Eq. 3")
    d.box(560, 129, 60, 44, "+", "", FAINT)
    d.arrow((280, 151), (330, 151))
    d.text(286, 143, "x1", size=13)
    d.arrow((296, 151), (296, 72), (330, 72))
    d.arrow((420, 151), (435, 151), (435, 178), (450, 178))
    d.arrow((420, 230), (435, 230), (435, 202), (450, 202))
    d.arrow((490, 158), (490, 94))
    d.arrow((420, 72), (450, 72))
    d.arrow((530, 72), (560, 72))
    d.arrow((590, 94), (590, 129))
    d.arrow((296, 151), (296, 112), (545, 112), (545, 151), (560, 151))
    d.box(670, 118, 80, 66, "RPN", "proposals")
    d.arrow((620, 151), (670, 151))
    for n, (name, below) in enumerate(
        (("class, box", ""), ("mask", "28 x 28"), ("embedding", ""))
    ):
        y = 60 + 68 * n
        d.box(790, y, 100, 48, name, below)
        d.arrow((750, 151), (770, 151), (770, y + 24), (790, y + 24))
    d.box(790, 300, 100, 56, "associate", "Sec. 3.2", FAINT)
    d.arrow((890, 84), (915, 84), (915, 315), (890, 315))
    d.arrow((890, 220), (905, 220), (905, 305), (890, 305))
    d.box(905, 372, 80, 50, "tracks", "", PLAIN)
    d.arrow((840, 356), (840, 397), (905, 397))
    d.arrow((890, 152), (945, 152), (945, 372))
    # The queue.
    d.box(160, 360, 560, 56, "memory queue", "", MEMORY)
    d.text(255, 407, "x0: maps of frame t - 1", size=12)
    d.text(610, 407, "tracks: embeddings, boxes, labels, ids", size=12)
    d.arrow((220, 184), (220, 360), dashed=True)
    d.text(213, 300, "for t + 1", size=12, anchor="end")
    d.arrow((303, 360), (303, 230), (330, 230))
    d.text(310, 300, "x0", size=13, anchor="start")
    d.arrow((700, 360), (700, 320), (790, 320))
    d.arrow((790, 342), (740, 342), (740, 388), (720, 388), dashed=True)
    return d.end()


def house() -> str:
    """Return the figure of the floors of the package."""
    row, width = 34, 760
    d = Drawing(width, row * len(HOUSE) + 40, "The floors of stan_jax")
    d.text(20, 24, "each floor imports only from those below it", anchor="start")
    for n, (name, what) in enumerate(reversed(HOUSE)):
        y = 36 + row * n
        fill = PLAIN if n == 0 else LEARNED if n % 2 else FAINT
        d.parts.append(
            f'<rect x="20" y="{y}" width="{width - 40}" height="{row - 4}" rx="5" '
            f'fill="{fill}" stroke="{INK}" stroke-width="0.7"/>'
        )
        d.text(34, y + 20, name, anchor="start", weight="bold")
        d.text(width - 34, y + 20, what, anchor="end", size=13)
    return d.end()


FIGURES = {"stan.svg": stan, "house.svg": house}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw())
