"""The command `optimality`. Help and names come from strings, before JAX is imported."""

import os
import sys

from optimality import registry

COMMANDS = ("solve", "train", "irl", "evaluate", "demonstrate", "resume", "runs", "report", "list", "doctor")

HELP = """usage: optimality COMMAND ...

Reinforcement learning as probabilistic inference.

commands:
  solve PROBLEM [METHOD] [options]      plan in a known model, check it in the real environment, write a report
  train ENVIRONMENT [METHOD] [options]  learn where a model is only sampled
  irl PROBLEM [METHOD] [options]        recover the reward that an expert's demonstrations pursue
  evaluate RUN                          play episodes by a run's policy, and look at one
  demonstrate [ENVIRONMENT] --policy RUN  record episodes of a run's policy, for imitation and inverse methods
  resume RUN                            go on with a run that was stopped or killed
  runs [FOLDER]                         what lies in the run folders
  report RUN...                         write a run's page anew, or compare several
  list                                  problems, environments and methods by name
  doctor                                versions, devices, precision and cache of this machine

  optimality solve FrozenLake-v1
  optimality solve cart-pole lqr --horizon 200
  optimality train CartPole-v1 ppo
  optimality COMMAND --help             options and exit codes
"""

SOLVE_HELP = """usage: optimality solve PROBLEM [METHOD] [options]

PROBLEM is a Gymnasium id with a table (FrozenLake-v1, CliffWalking-v1, Taxi-v4) or one of ours:
{problems}

METHOD, for tables:
{methods}

METHOD, for linear-quadratic problems:
{control_methods}

METHOD, for play-or-not:
{decision_methods}

METHOD, for bernoulli-bandit:
{bandit_methods}

decisions (with options of their own):
  optimality solve play-or-not --rewards rewards.csv --times times.csv --rate 3      play again, or stop; --help
  optimality solve bernoulli-bandit --horizon 20                                     arms of unknown chances; --help

options:
  --problem.NAME VALUE     an option of the problem: --problem.map-name 8x8, --problem.size 12
  --horizon N              a finite horizon of N steps; short for --criterion finite-horizon --criterion.horizon N
  --discount G             no end but a discount (with --horizon: both); short for --criterion discounted ...
  --criterion NAME         what is maximized; by default the environment's time limit. With options:
                           --criterion finite-horizon --criterion.horizon 50 | discounted --criterion.discount 0.95
                           | average-reward | until-termination
  --episodes N             episodes of the check in the environment (1000)
  --seed N                 of that check; planning itself has no randomness (0)
  --out FOLDER             where run folders go (runs/)
  --sweep temperature|none return, entropy and evidence against temperature; by default where a table is small
  --config FILE            repeat a run from its config.toml (or its folder); other options override it
  --json                   the summary as JSON on standard output, and nothing else there
  and the method's own hyper-parameters: optimality solve FrozenLake-v1 soft-value-iteration --help

exit codes: 0 done; 1 the measured return is 4 or more standard errors from the exact one; 2 bad input;
            3 the method did not succeed; 130 interrupted
"""


TRAIN_HELP = """usage: optimality train ENVIRONMENT [METHOD] [options]

ENVIRONMENT is a Gymnasium id (CartPole-v1, LunarLander-v3, your own registered one) or one of ours; `optimality list`.
An id that both have runs the compiled JAX version.

METHOD:
{methods}

bandits (with options of their own; several policies, one report):
  optimality train bernoulli-bandit ucb1,thompson,ids --arms 0.1,0.5,0.9      --help

POLICY, for bernoulli-bandit:
{policies}

options:
  --steps N                environment steps in all (100000)
  --seed N                 everything random follows from it (0)
  --seeds N                the same from N seeds, from --seed on, and a report with intervals over them
  --executor NAME          of the seeds: processes | vmap | sequential
  --environment-backend B  auto | jax | gymnasium
  --environment.NAME VALUE an option of the environment: --environment.gravity 3.7, --environment.time-limit 200
  --evaluations N          how many, evenly spread (20); each is of --evaluation-episodes N (20)
  --target X               stop when the mean return of an evaluation reaches X
  --seconds X              stop after X seconds
  --chunk N                learner steps between evaluations, instead of --evaluations
  --max-bad-updates N      stop after N steps in a row whose update was not finite (10)
  --keep N                 checkpoints that are kept (3)
  --out FOLDER             where run folders go (runs/)
  --config FILE            repeat a run from its config.toml (or its folder); other options override it
  --json                   the summary as JSON on standard output, and nothing else there
  and the method's own hyper-parameters: optimality train CartPole-v1 ppo --help

exit codes: 0 done; 2 bad input; 3 learning or the environment failed; 130 interrupted, 143 terminated: the chunk was
            finished and saved, `optimality resume RUN` goes on
"""

IRL_HELP = """usage: optimality irl PROBLEM [METHOD] --demonstrations FOLDER [options]

PROBLEM is a table: a Gymnasium id that has one (FrozenLake-v1, CliffWalking-v1, Taxi-v4) or one of ours; its own reward
is not used, but what was recovered is judged by it.

METHOD:
{methods}

options:
  --demonstrations FOLDER  what the expert did: a folder or NPZ file made by `optimality demonstrate` or in Python
  --reward SCOPE           what the reward may depend on: next-state (the state entered, default) | state | state-action
  --features FILE          a reward linear in features of states [S, k] or pairs [S, A, k], NPY or CSV
  --problem.NAME VALUE     an option of the problem
  --horizon N, --discount G, --criterion NAME ...   as for `optimality solve`
  --out FOLDER             where run folders go (runs/)
  --config FILE            repeat a run from its config.toml (or its folder); other options override it
  --json                   the summary as JSON on standard output, and nothing else there
  and the method's own hyper-parameters: optimality irl FrozenLake-v1 maxent --help

exit codes: 0 done; 2 bad input; 3 the method did not succeed; 130 interrupted
"""

OTHER_HELP = {
    "evaluate": """usage: optimality evaluate RUN [ENVIRONMENT] [options]

Plays whole episodes by the policy of a training run: by its mode and, where it draws its actions, by drawing them.

options:
  --which last|best        which policy (last)
  --episodes N             at least so many (100)
  --seed N                 of the episodes (0)
  --environment-backend B  jax | gymnasium; by default what the run used
  --environment.NAME VALUE an option of the environment
  --render [FILE.gif]      one episode as an animation, by default in the run's evaluation/; `--render human`: a window
  --json                   the numbers as JSON
""",
    "demonstrate": """usage: optimality demonstrate [ENVIRONMENT] --policy RUN [options]

Records whole episodes of a run's policy, which draws its actions: demonstrations for imitation and inverse methods.
RUN is a folder of `optimality solve` (episodes are drawn exactly from the table) or of `optimality train`.
ENVIRONMENT is by default the run's own. A soft-optimal expert: solve with soft-value-iteration --temperature 1 first.

options:
  --policy RUN             whose policy
  --which last|best        which policy of a training run (last)
  --episodes N             how many (50)
  --steps N                cut episodes off after N steps; by default the horizon or time limit
  --seed N                 everything random follows from it (0)
  --environment-backend B  jax | gymnasium, for a training run; by default what the run used
  --environment.NAME VALUE an option of the environment
  --out FOLDER             gets demonstrations.npz and demonstrations.json (demos/)
  --force                  replace what is there
  --json                   the summary as JSON

exit codes: 0 done; 2 bad input; 3 the environment failed; 130 interrupted: nothing was written
""",
    "resume": """usage: optimality resume RUN [--steps N] [--json]

Goes on from the newest complete checkpoint: on JAX environments to the same bits as if it had never stopped, on
Gymnasium environments with what was learned, from fresh episodes. --steps: in all, for longer than was asked before.
""",
    "runs": """usage: optimality runs [FOLDER] [--json]

Lists the run folders in FOLDER (runs/), with their state: a run that says `killed` was, and can be resumed.
""",
    "report": """usage: optimality report RUN... [--out FILE.html]

One run: writes its report.html anew. Several, or a folder of them: compares them, with intervals over seeds.
""",
}


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
        problems = {
            "methods": "TabularMDP",
            "control_methods": "LinearQuadratic",
            "decision_methods": "PlayOrNot",
            "bandit_methods": "BernoulliBandit",
        }
        words = {
            name: _columns(tuple(entry for entry in registry.METHODS if entry.problem == problem))
            for name, problem in problems.items()
        }
        print(SOLVE_HELP.format(problems=_columns(registry.PROBLEMS), **words), end="")
        return 0 if rest else 2
    if command == "train" and (not rest or rest in (["-h"], ["--help"])):
        words = {"methods": _columns(registry.LEARNERS), "policies": _columns(registry.BANDIT_POLICIES)}
        print(TRAIN_HELP.format(**words), end="")
        return 0 if rest else 2
    if command == "irl" and (not rest or rest in (["-h"], ["--help"])):
        print(IRL_HELP.format(methods=_columns(registry.INVERSE)), end="")
        return 0 if rest else 2
    if command in OTHER_HELP and rest in (["-h"], ["--help"]):
        print(OTHER_HELP[command], end="")
        return 0
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
    if command in ("train", "resume"):
        from optimality.cli.train import resume_command, train_command

        return train_command(rest) if command == "train" else resume_command(rest)
    if command == "irl":
        from optimality.cli.irl import irl_command

        return irl_command(rest)
    if command == "evaluate":
        from optimality.cli.evaluate import evaluate_command

        return evaluate_command(rest)
    if command == "demonstrate":
        from optimality.cli.demonstrate import demonstrate_command

        return demonstrate_command(rest)
    if command in ("runs", "report"):
        from optimality.cli.runs import report_command, runs_command

        return runs_command(rest) if command == "runs" else report_command(rest)
    if command == "list":
        from optimality.cli.list import list_command

        return list_command(rest)
    if command == "doctor":
        from optimality.cli.doctor import doctor_command

        return doctor_command(rest)
    import difflib

    close = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    return complain(f"unknown command {command!r}.{hint} Commands are {', '.join(COMMANDS)}.")


def complain(message: str) -> int:
    """One line on standard error, and the exit code for bad input."""
    print(f"optimality: {message}", file=sys.stderr)
    return 2


def _columns(entries: tuple[registry.Entry, ...]) -> str:
    return "\n".join(f"  {entry.name:24} {entry.help}" for entry in entries)


if __name__ == "__main__":
    script()
