"""The command tree, and how its errors are shown."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from sggp import __version__
from sggp.cli import bench, campaign, model, plan
from sggp.cli.console import stderr
from sggp.cli.molecules import demo, suggest
from sggp.errors import SggpError
from sggp.molecules.files import visible

_HELP = "Gaussian processes at scale: fit, predict, and choose what to measure next."

# typer's own usage errors derive from it; reached this way it is the right class for every typer version.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[2])


class _Once(typer.core.TyperCommand):
    """A command that takes no option of one value twice: by itself the last would win, unsaid."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = Counter(id(one) for one in self.make_parser(ctx).parse_args(list(args))[2])
        for option in self.params:
            single = option.param_type_name == "option" and not getattr(option, "multiple", False)
            if single and not getattr(option, "is_flag", False) and given[id(option)] > 1:
                name, times = "/".join(option.opts), given[id(option)]
                raise _UsageError(f"{name} is given {times} times, but it takes one value: give it once.")
        return super().parse_args(ctx, args)


def _take_options_once(app: typer.Typer) -> None:
    for command in app.registered_commands:
        command.cls = _Once
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _take_options_once(group.typer_instance)


def build() -> typer.Typer:
    """The command tree."""
    app = typer.Typer(name="sggp", help=_HELP, add_completion=False, no_args_is_help=True)
    app.callback(help=_HELP)(_options)
    app.command("demo")(demo.demo)
    app.command("suggest")(suggest.suggest)
    app.command("fit")(model.fit)
    app.command("predict")(model.predict)
    app.command("plan")(plan.plan)
    app.add_typer(campaign.app, name="campaign")
    app.add_typer(bench.app, name="bench")
    _take_options_once(app)
    return app


@cache
def _command() -> Any:
    """The tree as it is run, made once: to read the signatures of all commands takes longer than most of them do."""
    return typer.main.get_command(build())


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sggp {__version__}\n")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The help of the whole is that of the command tree."""


def run(argv: list[str]) -> int:
    """Run one command line; errors become one line on stderr and exit code 2."""
    _show_any_character()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _command()(args=argv, prog_name="sggp", standalone_mode=False)
            return code if isinstance(code, int) else 0
    except (SggpError, OSError) as error:
        return _report(str(error))
    except typer.Exit as done:
        return int(done.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        stderr().print("interrupted")
        return 130
    except _UsageError as error:
        return _report(_usage(error))
    except Exception as error:
        if os.environ.get("SGGP_TRACEBACK"):
            raise
        return _report(f"{type(error).__name__}: {error} (SGGP_TRACEBACK=1 shows where; please report it)")


def _show_any_character() -> None:
    r"""Let terminals show what they have no character for as `\u65e5`, for nothing may fail after it was stored."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: Any) -> str:
    message = str(error.format_message()).strip()
    if "\n" in message or not message:  # a command group without a command carries its help text
        sys.stdout.write(f"{message}\n")
        return "no command given (see --help)"
    return message


def _report(message: str) -> int:
    line = "; ".join(part.strip() for part in message.splitlines() if part.strip())
    _tell(f"error: {visible(line)}")
    return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(f"note: {visible(' '.join(str(message).split()))}")


def _tell(line: str) -> None:
    """A line on stderr, where there is one that takes it."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")
