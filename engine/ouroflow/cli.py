"""The command line: results on stdout, progress and messages on stderr, one exit code per kind of ending."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ouroflow.errors import Interrupted, OuroflowError, VerificationError

EXIT_CODES = (
    "exit codes: 0 done; 2 usage; 3 bad input data; 4 device, memory or disk not sufficient; 5 interrupted; "
    "6 verify failed"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no traceback reaches a user."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name shows its code points; it does not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except OuroflowError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; no output was changed", Interrupted.exit_code)
    except MemoryError as error:
        return _fail(f"not enough memory ({error}); use a machine with more, or fewer payments", 4)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to report, and stdout must not be flushed again at exit.
        _silence_stdout()
        return 0
    except SystemExit:
        # What rich does of a broken pipe, after silencing stdout itself.
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            _silence_stdout()
            return _fail(f"the disk is full or broken ({error.strerror}); what was written may be cut off", 4)
        return _fail(f"the system refused: {error}; check the path and its permissions", 2)
    except Exception as error:
        if os.environ.get("OUROFLOW_DEBUG"):
            raise
        if type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends", "cudf", "rmm"):
            return _fail(f"the device failed: {error}; try again, or use --device cpu, which computes the same", 4)
        return _fail(
            f"internal error: {type(error).__name__}: {error}. Set OUROFLOW_DEBUG=1 to see where, and please report it",
            1,
        )


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"ouroflow: error: {message}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ouroflow", description="Round-trip flow fractions of who-pays-whom, with proof.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_analyze(commands)
    _add_trace(commands)
    _add_verify(commands)
    _add_datasets(commands)
    _add_doctor(commands)
    return parser


def _add_analyze(commands: Any) -> None:
    command = commands.add_parser(
        "analyze",
        help="read payments, find the components, compute round-trip fractions, write OUT",
        description="Read payments, find who sits on closed loops, and say how much of what is paid comes back to its payer.",
        epilog=EXIT_CODES,
    )
    command.set_defaults(run=_analyze)
    command.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="Parquet, CSV (.gz, .zst) or Arrow files, folders or globs of them, URLs, or a bundled data set",
    )
    command.add_argument("-o", "--out", metavar="OUT", help="folder for the results; an older result there is replaced")
    columns = command.add_argument_group("columns (guessed from their names when unambiguous)")
    for role in ("payer", "payee", "amount", "time", "id", "currency"):
        columns.add_argument(f"--{role}", metavar="C", help=f"column of the {role}")
    rows = command.add_argument_group("rows")
    rows.add_argument(
        "--decimals", type=int, metavar="N", help="minor units are 10^-N of the unit of amounts (default 2)"
    )
    rows.add_argument("--status", metavar="S,...", help="count only payments with one of these statuses")
    rows.add_argument(
        "--reversals", choices=("stop", "flip"), default="stop", help="negative amounts: stop, or payee pays back"
    )
    rows.add_argument(
        "--on-bad-rows", choices=("stop", "reject"), default="stop", help="stop, or set bad rows aside and go on"
    )
    rows.add_argument("--boundary", metavar="FILE", help="known external flows: company, inflow, outflow")
    rows.add_argument("--entities", metavar="FILE", help="companies to merge before analysis: company, parent")
    rows.add_argument("--rates", metavar="FILE", help="exchange rates: currency, rate[, date]")
    figures = command.add_argument_group("figures")
    figures.add_argument(
        "--measures",
        metavar="M,...",
        help="of components, roundtrip and circulation (default components,roundtrip: the maximum circulation is exact "
        "and takes seconds per million flows, so it is asked for)",
    )
    figures.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="X",
        help="half-width of sampled figures; 0 asks for exact ones (default 1e-3)",
    )
    figures.add_argument("--hops", type=int, metavar="K", help="count round trips of at most K payments only")
    figures.add_argument(
        "--top",
        type=int,
        default=100,
        metavar="N",
        help="certify the N companies with most round-trip money (default 100)",
    )
    figures.add_argument(
        "--company", action="append", default=[], metavar="NAME", help="certify this company too (repeatable)"
    )
    figures.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the walks (default 0)")
    figures.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto takes an NVIDIA GPU where one can be used, and says why or why not (default)",
    )
    figures.add_argument(
        "--scc",
        choices=("own", "cugraph"),
        default="own",
        help="who finds the components on a GPU: our kernels, or cuGraph (default own)",
    )
    _add_output_options(command)
    command.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")


def _add_trace(commands: Any) -> None:
    command = commands.add_parser(
        "trace",
        help="who returns this company's money: counterparties, hops, strongest paths",
        description="Decompose one company's round-trip money from the files of OUT.",
    )
    command.set_defaults(run=_trace)
    command.add_argument("out", metavar="OUT", help="folder written by ouroflow analyze")
    command.add_argument("company", metavar="COMPANY")
    command.add_argument("--top", type=int, default=10, metavar="N", help="counterparties and paths shown (default 10)")
    command.add_argument(
        "--hops", type=int, default=12, metavar="K", help="longest round trip shown apart (default 12)"
    )
    _add_output_options(command)


def _add_verify(commands: Any) -> None:
    command = commands.add_parser(
        "verify",
        help="re-check every certificate of OUT with code that shares nothing with the engine",
        description="Re-check the stored results from the files alone. Exit code 6 when anything does not agree.",
    )
    command.set_defaults(run=_verify)
    command.add_argument("out", metavar="OUT", help="folder written by ouroflow analyze")
    _add_output_options(command)


def _add_datasets(commands: Any) -> None:
    command = commands.add_parser("datasets", help="list the bundled data sets, or show the card of one")
    command.set_defaults(run=_datasets)
    command.add_argument("name", nargs="?", metavar="NAME", help="show the card of this data set")
    _add_output_options(command)


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="what this machine offers: device, packages, memory, and what to install",
        description="Report device, driver, CuPy, RAPIDS, memory and test lanes, and say what is missing.",
    )
    command.set_defaults(run=_doctor)
    command.add_argument("--warm", action="store_true", help="compile every kernel for the GPU at hand")
    _add_output_options(command)


def _add_output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of text")


def _analyze(arguments: argparse.Namespace) -> int:
    from ouroflow.analysis import analyze
    from ouroflow.report.answer import print_answer

    measures = {} if arguments.measures is None else {"measures": _parts(arguments.measures)}
    analysis = analyze(
        arguments.input if len(arguments.input) > 1 else arguments.input[0],
        out=arguments.out,
        payer=arguments.payer,
        payee=arguments.payee,
        amount=arguments.amount,
        time=arguments.time,
        id=arguments.id,
        currency=arguments.currency,
        decimals=arguments.decimals,
        status=None if arguments.status is None else _parts(arguments.status),
        reversals=arguments.reversals,
        on_bad_rows=arguments.on_bad_rows,
        boundary=arguments.boundary,
        entities=arguments.entities,
        rates=arguments.rates,
        **measures,
        tolerance=arguments.tolerance,
        hops=arguments.hops,
        top=arguments.top,
        company=arguments.company,
        seed=arguments.seed,
        device=arguments.device,
        scc=arguments.scc,
        quiet=arguments.quiet,
    )
    if arguments.json:
        _print_json(analysis.summary())
    else:
        print_answer(analysis, arguments.out)
    return 0


def _trace(arguments: argparse.Namespace) -> int:
    from ouroflow.trace import render, trace

    found = trace(Path(arguments.out), arguments.company, top=arguments.top, hops=arguments.hops)
    if arguments.json:
        _print_json(found.as_dict())
    else:
        print(render(found))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from ouroflow.verify import verify

    report = verify(Path(arguments.out))
    if arguments.json:
        _print_json(report.as_dict())
    else:
        print(report.render())
    return 0 if report.ok else VerificationError.exit_code


def _datasets(arguments: argparse.Namespace) -> int:
    from ouroflow.assets import dataset_names, load_dataset

    if arguments.name is not None:
        card = load_dataset(arguments.name).card
        if arguments.json:
            _print_json(card)
        else:
            import yaml

            print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110), end="")
        return 0
    cards = [load_dataset(name).card for name in dataset_names()]
    if arguments.json:
        _print_json({card["name"]: card["title"] for card in cards})
    else:
        for card in cards:
            print(f"{card['name']:<18} {card['title']}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from ouroflow.doctor import diagnose, warm

    found = diagnose()
    seconds = warm() if arguments.warm else {}
    if arguments.json:
        _print_json(found.as_dict() | ({"compiled_seconds": seconds} if arguments.warm else {}))
    else:
        print(found.render())
        for file, taken in seconds.items():
            print(f"compiled {file} in {taken:.2f} s")
    return 0


def _parts(text: str) -> list[str]:
    """Return the parts of a list separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False, default=str))


def _version() -> str:
    from importlib.metadata import version

    return f"ouroflow {version('ouroflow')}"


if __name__ == "__main__":
    sys.exit(main())
