# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""The errors that a user can mend, and how a command ends on one: `InputError` is the exception to catch."""

import argparse
import difflib
import math
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

# Words of torch.save and LanceDB where a disk is full; both raise a plain `RuntimeError`.
WRITER_ERRORS = ("inline_container", "PytorchStreamWriter", "No space left on device")

LOST_WORKER = "It decodes videos; out of memory, systems kill such processes: use fewer workers or a smaller batch."


class InputError(ValueError):
    """Something that the user can mend; the message is one sentence that names the file and the field."""


class ArgumentError(InputError):
    """An argument out of bounds. Python names it as such, a command as its option: see [`exit_on_bad_input`]."""

    def __init__(self, argument: str, problem: str):
        super().__init__(argument, problem)  # which unpickling needs, in another process
        self.argument, self.problem = argument, problem

    def __str__(self) -> str:
        return f"`{self.argument}` {self.problem}."


class OutputError(InputError):
    """A disk that is full or cannot be written, perhaps in one process only."""


def check_number(argument: str, value: float | None, least: float, most: float = math.inf):
    """Raise an `ArgumentError` for a number out of bounds, infinite, or NaN; `None` passes."""
    if value is not None and not (least <= value <= most and value < math.inf):
        bounds = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        bounds = "a finite number" if least == -math.inf else bounds
        raise ArgumentError(argument, f"must be {bounds}, got {value:g}")


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a question for the most similar of some names, to append to a sentence; empty where none is similar."""
    similar = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {prefix}{similar[0]}?" if similar else ""


def did_you_mean_beside(path: str | os.PathLike) -> str:
    """Return [`did_you_mean`] of the files and folders beside a path."""
    folder, name = os.path.split(path)
    return did_you_mean(name, os.listdir(folder or ".") if os.path.isdir(folder or ".") else ())


def not_found(path: str | os.PathLike, kind: str = "file") -> InputError:
    """Return the error for a file or folder that is missing, which names a similar one beside it."""
    return InputError(f"{path}: there is no such {kind}.{did_you_mean_beside(path)}")


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one sentence, with the option or command that may be meant."""

    def parse_known_args(self, args=None, namespace=None):
        """Refuse what a sub-command does not know in its own name, with its own options to suggest."""
        namespace, unknown = super().parse_known_args(args, namespace)
        is_told = unknown[:1] == ["--"]  # that these are no options
        if hasattr(namespace, "words") and (is_told or not any(word.startswith("-") for word in unknown)):
            namespace.words += unknown[is_told:]  # which stand behind an option
        elif unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, []

    def error(self, message: str) -> NoReturn:
        suggestion = ""
        if wrong := re.search(r"unrecognized arguments: --([^\s=]+)", message):
            suggestion = did_you_mean(wrong[1], self.options(), "--")
        elif wrong := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message):
            suggestion = did_you_mean(wrong[1], re.findall(r"[^', ]+", wrong[2]))
        self.exit(2, f"{self.prog}: {message}.{suggestion} {self.prog} --help explains.\n")

    def options(self) -> list[str]:
        return re.findall(r"--(\w+)", self.format_help())


@dataclass
class ArgumentGroup:
    """Base of a group of options whose numbers have the lower bounds `at_least`."""

    at_least: ClassVar[dict[str, float]] = {}

    def __post_init__(self):
        for name, least in self.at_least.items():
            check_number(name, getattr(self, name), least)


@contextmanager
def writing(place: str | os.PathLike) -> Iterator[None]:
    """Raise an `OutputError` that names the file or folder where a disk is full or read-only."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{place}: cannot be written ({getattr(error, 'strerror', None) or error}).") from error
    except RuntimeError as error:
        if any(words in str(error) for words in WRITER_ERRORS):
            raise OutputError(f"{place}: cannot be written to its end; is the disk full?") from error
        if "LanceError(IO)" not in str(error):
            raise
        raise OutputError(f"{place}: cannot be written ({store_reason(error)}).") from error


def store_reason(error: Exception) -> str:
    """Return what a store says, without the request, or what LanceDB says, without lines of its source."""
    told = re.search(r'<Message>(.+?)</Message>|message: "(.+?)"', str(error), re.DOTALL)
    reason = (told[1] or told[2]) if told else str(error).partition(", /")[0][:300]
    return " ".join(reason.split())


def sentence_of(error: Exception) -> str:
    """Return the message, without the traceback that a DataLoader worker writes in front of it."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2].strip()


@contextmanager
def exit_on_bad_input(command: str | None = None) -> Iterator[None]:
    """End a command, by default the running script, with one sentence on stderr instead of a traceback.

    The exit code is 2 for bad input, a full disk or a lost worker, 130 for Ctrl-C, and 141, with no sentence, where the
    reader of a pipe has gone, as `head` does. Of several processes only the main one speaks, but each does about its
    own disk.
    """
    code, is_of_all = 2, os.environ.get("RANK", "0") == "0"
    try:
        try:
            yield
        finally:
            if sys.exc_info()[0] in (None, SystemExit):
                print(end="", flush=True)  # here, where a pipe without a reader is caught, not at Python's own end
        return
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        sys.exit(141)  # 128 + SIGPIPE, as a shell says it
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted."
    except ArgumentError as error:
        sentence = f"--{error.argument} {error.problem}."
    except ValueError as error:  # VideoDecodeError is one, of a module that travels with the weights
        if not isinstance(error, InputError) and type(error).__name__ != "VideoDecodeError":
            raise
        sentence, is_of_all = sentence_of(error), is_of_all or isinstance(error, OutputError)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # is killed, or exited unexpectedly
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch's handler raises again as the loader is taken down
        sentence, is_of_all = f"{str(error).strip().rstrip('.')}. {LOST_WORKER}", True
    if is_of_all:
        print(f"{command or Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    sys.exit(code)
