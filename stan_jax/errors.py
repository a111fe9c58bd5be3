"""The error for a file or a setting of the user that breaks a rule."""

import contextlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from pathlib import Path


class InputError(ValueError):
    """One broken rule in one record of one file; the message names all three.

    Args:
      file: where it stands (path, or the name of a setting).
      record: which part of it, e.g. "annotation 17, frame 3"; may be empty.
      rule: what must hold and what was found instead, with both values.
      cure: what to do, where the rule alone does not tell.
    """

    def __init__(self, file: str | Path, record: str, rule: str, cure: str = ""):
        self.file, self.record, self.rule, self.cure = str(file), record, rule, cure
        parts = ": ".join(part for part in (str(file), record, rule) if part)
        super().__init__(f"{parts}; {cure}" if cure else parts)

    def __reduce__(self) -> tuple:
        # As exceptions are copied, from another process, by what they were made of.
        return type(self), (self.file, self.record, self.rule, self.cure)


def kind_of(rule: str) -> str:
    """Return a rule without the values that it was found with."""
    return re.sub(r"'[^']*'|\[[^\]]*\]?|\S*[\d/\\]\S*", "#", rule)


def grouped(
    lines: Sequence[tuple[Hashable, str]], most: int | None
) -> list[tuple[list[str], int]]:
    """Return the texts of each kind, `most` of them and the number of the others.

    lines: kind and text of each; one more than `most` is shown as well.
    """
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for kind, text in lines:
        alike[kind].append(text)
    shown = [
        texts if most is None or len(texts) <= most + 1 else texts[:most]
        for texts in alike.values()
    ]
    whole = zip(shown, alike.values(), strict=True)
    return [(some, len(texts) - len(some)) for some, texts in whole]


@contextlib.contextmanager
def as_messages() -> Generator[None]:
    """End a script with one line and status 1 where the user can mend what is wrong."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; what was finished is there", file=sys.stderr)
        sys.exit(130)  # as shells have it for SIGINT
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        sys.exit(f"error: {error.filename or 'disk'}: {error.strerror or error}")
