# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The errors that a user can mend, and how a command ends on one: `InputError` is the exception to catch."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

# In what torch.save and LanceDB raise, which are plain `RuntimeError`s.
WRITER_ERRORS = ("inline_container", "PytorchStreamWriter", "No space left on device")


class InputError(ValueError):
    """Something that the user can mend; the message is one sentence that names the file and the field."""


class ArgumentError(InputError):
    """An argument out of bounds. Python names it as such, a command as its option: see [`exit_on_bad_input`]."""

    def __init__(self, argument: str, problem: str):
        super().__init__(f"`{argument}` {problem}.")
        self.argument, self.problem = argument, problem


class OutputError(InputError):
    """A disk that is full or cannot be written, perhaps in one process only."""


def check_number(argument: str, value: float | None, least: float, most: float = math.inf):
    """Raise an `ArgumentError` for a number out of bounds, infinite, or NaN; `None` passes."""
    if value is not None and not (least <= value <= most and value < math.inf):
        bounds = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ArgumentError(argument, f"must be {bounds}, got {value:g}")


@dataclass
class ArgumentGroup:
    """Base of a group of options whose numbers have the lower bounds `at_least`."""

    at_least: ClassVar[dict[str, float]] = {}

    def __post_init__(self):
        for name, least in self.at_least.items():
            check_number(name, getattr(self, name), least)


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Raise an `OutputError` that names the file or folder where a disk is full or read-only."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error}).") from error
    except SafetensorError as error:
        raise OutputError(f"{place}: cannot be written ({error}).") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in WRITER_ERRORS):
            raise
        raise OutputError(f"{place}: cannot be written to its end; is the disk full?") from error


def sentence_of(error: Exception) -> str:
    """Return the message, without the traceback that a DataLoader worker writes in front of it."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2].strip()


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """End a command with exit code 2 and one sentence on stderr for bad input, a full disk, or a lost worker."""
    from .processing_svitt import VideoDecodeError

    try:
        yield
    except (InputError, VideoDecodeError) as error:
        from accelerate import PartialState

        option = f"--{error.argument} {error.problem}." if isinstance(error, ArgumentError) else sentence_of(error)
        if PartialState().is_main_process or isinstance(error, OutputError):
            print(f"{Path(sys.argv[0]).name}: {option}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # is killed, or exited unexpectedly
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch's handler raises again as the loader is taken down
        print(
            f"{Path(sys.argv[0]).name}: {str(error).strip().rstrip('.')}. It decodes videos; systems that run out of "
            "memory kill such processes, then fewer workers or a smaller batch helps.",
            file=sys.stderr,
        )
        sys.exit(2)
