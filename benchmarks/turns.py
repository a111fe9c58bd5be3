"""Subjects that are timed in turn: processes that wait, and do their work once a line.

Needs nothing but the standard library and NumPy, since a peer runs in a Python of its
own. A subject prints READY once it is warm, then a json for each line that it is given:
wall and CPU seconds of a frame or a step, its peak memory so far in GB.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

READY = "ready"
SIZE_HW, OBJECTS = (360, 640), 3


def serve(call, frames=1, warm=3):
    """Do the work once for each line of the standard input.

    frames: of a call; times are of one of them.
    """
    for _ in range(warm):
        call()
    print(READY, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found = dict(
            seconds=(time.perf_counter() - wall) / frames,
            cpu=(time.process_time() - cpu) / frames,
            gigabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        )
        print(json.dumps(found), flush=True)


class Subject:
    """A shell command that serves."""

    def __init__(self, command):
        """Start it and wait until it is warm.

        Raises: RuntimeError with its last words if it ends instead.
        """
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, shell=True, stdin=pipe, stdout=pipe, text=True
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


def frames(number, size_hw=SIZE_HW):
    """RGB pictures with moving discs, and the discs' boxes and masks.

    Returns: uint8 [n h w 3]; float32 [n m 4], xyxy; bool [n m h w].
    """
    rng = np.random.default_rng(0)
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    cells = rng.integers(0, 256, (-(-height // 20), -(-width // 20), 3))
    ground = np.kron(cells, np.ones((20, 20, 1)))[:height, :width]
    pictures, boxes, masks = [], [], []
    for t in range(number):
        picture = ground.copy()
        discs = []
        for n in range(OBJECTS):
            radius = height * (40 + 30 * n) / 360
            centre_x = width * (100 + 180 * n + 8 * t) / 640
            centre_y = height * (120 + 40 * n) / 360
            disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
            picture[disc] = 80 * n + 40
            discs.append(disc)
        places = (np.nonzero(disc) for disc in discs)
        boxes.append([(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in places])
        pictures.append(picture.astype(np.uint8))
        masks.append(discs)
    return np.stack(pictures), np.array(boxes, np.float32), np.array(masks)
