"""`sggp campaign`: ask for measurements and tell results across days, in one file."""

from __future__ import annotations

import typer

from sggp.cli.campaign import move, show, start, trials

app = typer.Typer(help="A measurement campaign kept in one file.", no_args_is_help=True)

_SIGNED = {"ignore_unknown_options": True}  # -8.8 is a value, not an option
app.command("init")(start.init)
app.command("ask")(trials.ask)
app.command("tell", context_settings=_SIGNED)(trials.tell)
app.command("fail")(trials.fail)
app.command("attach", context_settings=_SIGNED)(trials.attach)
app.command("amend", context_settings=_SIGNED)(trials.amend)
app.command("withdraw")(trials.withdraw)
app.command("pending")(trials.pending)
app.command("status")(show.status)
app.command("results")(show.results)
app.command("history")(show.history)
app.command("report")(show.report)
app.command("export")(move.export)
app.command("import")(move.import_)
