"""Subjects that are timed in turn: processes that wait, and do their work once a line.

Needs nothing but the standard library and NumPy, since a peer runs in a Python of its
own. A subject prints READY once it is warm, then a json for each line that it is given:
wall and CPU seconds of one call, its peak memory so far.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

READY = "ready"
HEIGHT, WIDTH, OBJECTS = 360, 640, 3


def serve(call, warm=3):
    """Do the work once for each line of the standard input."""
    for _ in range(warm):
        call()
    print(READY, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found = dict(
            seconds=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            gigabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        )
        print(json.dumps(found), flush=True)


class Subject:
    """A process that serves."""

    def __init__(self, command):
        """Start it and wait until it is warm.

        Raises: RuntimeError with its last words if it ends instead.
        """
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, shell=isinstance(command, str), stdin=pipe, stdout=pipe, text=True
        )
        while self._line() != READY:  # a library may greet first
            pass

    def turn(self):
        """Return what one call took."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def stop(self):
        """Let it end, and return how it did."""
        with self.process:  # closes both pipes, then waits
            pass
        return self.process.returncode

    def _line(self):
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.stop()}")
        return line.strip()


def frames(number):
    """RGB pictures of 640 x 360 with moving discs, and the discs' boxes and masks.

    Returns: uint8 [n h w 3]; float32 [n m 4], xyxy; bool [n m h w].
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3))
    pictures, boxes, masks = [], [], []
    for t in range(number):
        picture = np.kron(ground, np.ones((20, 20, 1)))
        discs = []
        for n in range(OBJECTS):
            radius = 40 + 30 * n
            centre = np.array([100 + 180 * n + 8 * t, 120 + 40 * n])
            disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
            picture[disc] = 80 * n + 40
            discs.append(disc)
        found = [
            (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            for ys, xs in (np.nonzero(disc) for disc in discs)
        ]
        pictures.append(picture.astype(np.uint8))
        boxes.append(found)
        masks.append(discs)
    return np.stack(pictures), np.array(boxes, np.float32), np.array(masks)
