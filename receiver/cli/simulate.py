"""`runhook simulate`: a local Skyvern for demo, development and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import DataDirectory, Host
from receiver.config.settings import Settings
from receiver.errors import UsageError
from receiver.telemetry import logs

if TYPE_CHECKING:
    from simulator.faults import Fault

FAULTS_HELP = "A fault and its share of the runs, such as lose=0.2; repeatable. See --faults."


def simulate(
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any free port.")
    ] = 8090,
    host: Host = "127.0.0.1",
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="API key to accept and sign with. Default: SKYVERN_API_KEY, or that of dev.",
        ),
    ] = None,
    fault: Annotated[list[str] | None, typer.Option("--fault", metavar="NAME=RATIO", help=FAULTS_HELP)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed that selects the runs with faults.")] = 0,
    speed: Annotated[float, typer.Option("--speed", min=0.01, help="Factor by which all waits are shorter.")] = 1.0,
    run_seconds: Annotated[float, typer.Option("--run-seconds", min=0, help="Duration of a run, about.")] = 2.0,
    gap_seconds: Annotated[
        float, typer.Option("--gap-seconds", min=0, help="Time from the final status to the webhook, about.")
    ] = 0.8,
    late_seconds: Annotated[float, typer.Option("--late-seconds", min=0, help="Delay of a late webhook.")] = 20.0,
    url_seconds: Annotated[
        float, typer.Option("--url-seconds", min=1, help="Lifetime of signed artifact URLs.")
    ] = 3600.0,
    local_storage: Annotated[
        bool, typer.Option("--local-storage", help="Use null or file:// artifact URLs, as without object storage.")
    ] = False,
    public_url: Annotated[str, typer.Option("--public-url", help="URL at which others reach this server.")] = "",
    data: DataDirectory = None,
    faults: Annotated[bool, typer.Option("--faults", help="List the faults and exit.")] = False,
) -> None:
    """Run a simulated Skyvern: its API, short runs, signed webhooks, artifacts, and faults on request.

    A run has a fault if its prompt or title names it in brackets, as in "Get the invoice [lose]".
    """
    if faults:
        from simulator.faults import Fault

        for each in Fault:
            typer.echo(f"{each:<10} {each.help}")
        return
    from simulator.api import create_app
    from simulator.options import Options
    from simulator.server import listen, serve

    settings = Settings.from_env(data=data)
    logs.set_up(settings.log_level, settings.log_format)
    keys = api_key or [settings.with_local_key().environ["SKYVERN_API_KEY"]]
    options = Options(
        api_keys=tuple(keys),
        seed=seed,
        speed=speed,
        run_seconds=run_seconds,
        gap_seconds=gap_seconds,
        late_seconds=late_seconds,
        url_seconds=url_seconds,
        screenshot_url_seconds=min(url_seconds, 3600.0),
        local_storage=local_storage,
        public_url=public_url.rstrip("/"),
        ratios=_ratios(fault or []),
    )
    sock = listen(host, port)
    base = f"http://{host}:{sock.getsockname()[1]}"
    typer.echo(f"Simulated Skyvern at {base} (SKYVERN_BASE_URL={base})", err=True)
    if options.ratios:
        chosen = ", ".join(f"{name} {ratio:.0%}" for name, ratio in options.ratios.items())
        typer.echo(f"Faults: {chosen}; seed {seed}.", err=True)
    serve(create_app(options), sock)


def _ratios(given: list[str]) -> dict[Fault, float]:
    from simulator.faults import check

    ratios = {}
    for each in given:
        name, _, ratio = each.partition("=")
        try:
            ratios[name] = float(ratio)
        except ValueError:
            raise UsageError(f"--fault {each}: must be NAME=RATIO, such as lose=0.2") from None
    try:
        return check(ratios)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from None
