"""The command `optimality`. Help and names come from strings, before JAX is imported."""

import os
import sys

from optimality import registry

HELP = """usage: optimality COMMAND ...

Reinforcement learning as probabilistic inference.

commands:
  solve PROBLEM [METHOD] [options]   plan in a known model, check it in the real environment, write a report
  list                               problems, methods and criteria by name
  doctor                             versions, devices, precision and cache of this machine

  optimality solve FrozenLake-v1
  optimality solve --help            options and exit codes
"""

SOLVE_HELP = """usage: optimality solve PROBLEM [METHOD] [options]

PROBLEM is a Gymnasium id with a table (FrozenLake-v1, CliffWalking-v1, Taxi-v4) or one of ours:
{problems}

METHOD:
{methods}

options:
  --problem.NAME VALUE     an option of the problem: --problem.map-name 8x8, --problem.size 12
  --criterion NAME         what is maximized; by default the environment's time limit. With options:
                           --criterion finite-horizon --criterion.horizon 50 | discounted --criterion.discount 0.95
                           | average-reward | until-termination
  --episodes N             episodes of the check in the environment (1000)
  --seed N                 of that check; planning itself has no randomness (0)
  --out FOLDER             where run folders go (runs/)
  --sweep temperature|none return, entropy and evidence against temperature; by default where the problem is small
  --config FILE            repeat a run from its config.toml (or its folder); other options override it
  --json                   the summary as JSON on standard output, and nothing else there
  and the method's own hyper-parameters: optimality solve FrozenLake-v1 soft-value-iteration --help

exit codes: 0 done; 1 the measured return is 4 or more standard errors from the exact one; 2 bad input;
            3 the method did not succeed; 130 interrupted
"""


def script() -> None:
    """The console script."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 130:
        os._exit(code)  # interrupted inside a compilation, XLA crashes when the interpreter takes it down
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from optimality import __version__

        print(__version__)
        return 0
    command, rest = arguments[0], arguments[1:]
    if command == "solve" and (not rest or rest in (["-h"], ["--help"])):
        print(SOLVE_HELP.format(problems=_columns(registry.PROBLEMS), methods=_columns(registry.METHODS)), end="")
        return 0 if rest else 2
    try:
        return _run(command, rest)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(command: str, rest: list[str]) -> int:
    if command == "solve":
        from optimality.cli.solve import solve_command

        return solve_command(rest)
    if command == "list":
        from optimality.cli.list import list_command

        return list_command(rest)
    if command == "doctor":
        from optimality.cli.doctor import doctor_command

        return doctor_command(rest)
    import difflib

    close = difflib.get_close_matches(command, ("solve", "list", "doctor"), n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    return complain(f"unknown command {command!r}.{hint} Commands are solve, list and doctor.")


def complain(message: str) -> int:
    """One line on standard error, and the exit code for bad input."""
    print(f"optimality: {message}", file=sys.stderr)
    return 2


def _columns(entries: tuple[registry.Entry, ...]) -> str:
    return "\n".join(f"  {entry.name:24} {entry.help}" for entry in entries)


if __name__ == "__main__":
    script()
