"""A window that shows pictures as they come."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError

LARGEST = (1600, 900)  # pixels of a picture; larger ones are reduced


class Screen:
    """A window on the screen; a context manager. Only for the main thread.

    `put` may be called from any thread: the newest picture is what `refresh` shows.
    Raises: InputError where there is no screen.
    """

    def __init__(self, title: str):
        self._title, self._picture = title, None
        self.closed = False

    def __enter__(self) -> "Screen":
        try:
            import tkinter

            self._root = tkinter.Tk()
        except Exception as error:  # no tkinter, no display
            rule = f"there is no screen to show it on: {error}"
            raise InputError("--show", "", rule) from None
        self._root.title(self._title)
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        return self

    def _close(self) -> None:
        self.closed = True

    def put(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Hand in the next picture."""
        self._picture = picture

    def refresh(self) -> None:
        """Show the newest picture and see to the window."""
        from PIL import ImageTk

        picture, self._picture = self._picture, None
        if picture is not None and not self.closed:
            image = Image.fromarray(picture)
            image.thumbnail(LARGEST)
            self._shown: Any = ImageTk.PhotoImage(image)
            self._label.configure(image=self._shown)
        self._root.update()

    def __exit__(self, *_: Any) -> None:
        self._root.destroy()
