"""The command line. Commands are imported when they run; every error a user can mend is one line and exit code 2."""

import difflib
import errno
import os
import signal
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownCommandError, UnknownOptionError

from joyhallo._version import __version__
from joyhallo.errors import UserError

EXIT_SHORTFALL = 1  # a check that ran and did not pass
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

_MENDABLE = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again to go on",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the same command again to go on",
    errno.EACCES: "permission denied: use a file or folder you may read and write",
    errno.EPERM: "not permitted: use a file or folder you may read and write",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.ENOTDIR: "a file stands where a folder is needed: give another path",
    errno.ENAMETOOLONG: "the name is too long: use a shorter one",
    errno.EFBIG: "the file would be larger than this file system allows: write elsewhere",
}

app = App(
    name="joyhallo",
    help="One portrait and one speech recording become a talking video.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help_epilogue="Weights and caches: JOYHALLO_WEIGHTS, JOYHALLO_CACHE, HF_ENDPOINT (a mirror). See `joyhallo doctor`.",
)
_COMMANDS = {
    "animate": ("joyhallo.cli.animate:animate", "Make the portrait speak: one picture, one recording, one mp4."),
    "batch": ("joyhallo.cli.batch:batch", "The videos of a list, as jobs that survive the process."),
    "serve": ("joyhallo.cli.serve:serve", "The page and the HTTP API, with a queue that survives the process."),
    "train": ("joyhallo.cli.train:train", "Train the networks on prepared clips: stage1 on pictures, stage2 on clips."),
    "data": ("joyhallo.cli.data:app", "Make datasets from videos or portraits, look at them, import published ones."),
    "models": ("joyhallo.cli.models:app", "List, fetch, convert and check weights."),
    "evaluate": ("joyhallo.cli.evaluate:evaluate", "Measure finished videos: the paper's columns, lip sync, visemes."),
    "verify": ("joyhallo.cli.verify:verify", "Say what marks of AI content a file carries."),
    "doctor": ("joyhallo.cli.doctor:doctor", "Say what is installed, what is missing, and what mends it."),
    "bench": ("joyhallo.cli.bench:bench", "Measure this machine: time per step and per second of video."),
}
for _name, (_place, _help) in _COMMANDS.items():
    app.command(_place, name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check fell short, 2 something the user can mend, 130 interrupted."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        return _say("stopped; run the same command again to go on.", EXIT_INTERRUPTED)
    except CycloptsError as error:
        return _say(_usage_line(error), EXIT_USER_ERROR)
    except UserError as error:
        return _say(str(error), EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_USER_ERROR
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(where + _MENDABLE[error.errno], EXIT_USER_ERROR)
    return result if isinstance(result, int) else 0


def _say(line: str, code: int) -> int:
    print(f"joyhallo: {' '.join(line.split())}", file=sys.stderr)
    return code


def _usage_line(error: CycloptsError) -> str:
    chain = tuple(error.command_chain or ())
    if isinstance(error, UnknownCommandError):  # its own text would import every command
        given = (error.unused_tokens or [""])[0]
        known = list(_COMMANDS) if not chain else [name for name in (error.app or app) if not name.startswith("-")]
        near = difflib.get_close_matches(given, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(known)}."
        return f"unknown command {given!r}: {hint} See `{' '.join(('joyhallo', *chain, '--help'))}`."
    line = " ".join(str(error).split())
    if isinstance(error, UnknownOptionError) and "Did you mean" not in line:
        known = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
        near = difflib.get_close_matches(error.token.keyword or error.token.value, known, n=1, cutoff=0.0)
        line += f" The nearest known option is {near[0]}." if near else ""
    return f"{line} See `{' '.join(('joyhallo', *chain, '--help'))}`."
