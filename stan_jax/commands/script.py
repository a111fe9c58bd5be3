"""How train.py and eval.py run: what the user can mend is one line."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from stan_jax import errors
from stan_jax.training import processes


def define_processes() -> None:
    """Define the flags of `processes.join`."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of the first process, or auto.")
    flags.DEFINE_integer("processes", None, "How many processes there are.")
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def join_processes() -> None:
    """Join the other processes, where the flags say that there are some.

    Raises: InputError as `processes.join`.
    """
    values = flags.FLAGS
    processes.join(values.coordinator, values.processes, values.process)


def run(main: Callable[[list[str]], None]) -> None:
    """Run the function as `app.run`, with one line for a wrong flag or config file."""
    with processes.leave_at_once(), errors.as_messages():
        app.run(main, flags_parser=_parsed)


def _parsed(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.keys()  # an absent file is told only when it is asked
        return rest
    except flags.Error as error:
        sys.exit(f"error: {_line(error)}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"error: {_config_of(argv)}: {_line(error)}")
    except (OSError, ImportError, SyntaxError) as error:  # of the config's file
        path = _config_of(argv)
        if Path(path.split(":")[0]).is_file():
            sys.exit(f"error: {path}: cannot be loaded: {_line(error)}")
        sys.exit(f"error: {path}: there is no such file; configs/ has some")


def _line(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    if "Traceback" in text:  # which is that of the config's file
        text = text.strip().splitlines()[-1]
    text = text.replace("\\n", " ").replace("\\'", "'").strip("'\"")
    return " ".join(text.split())[:300]


def _config_of(argv: list[str]) -> str:
    named = [x.split("=", 1)[-1] for x in argv if x.startswith("--config=")]
    return named[-1] if named else "--config"
