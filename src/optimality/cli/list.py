"""`optimality list`: names, without importing JAX."""

import json

from optimality import registry
from optimality.cli.main import complain

_GROUPS = {
    "methods": registry.METHODS,
    "learners": registry.LEARNERS,
    "bandit policies": registry.BANDIT_POLICIES,
    "environments": registry.ENVIRONMENTS,
    "problems": registry.PROBLEMS,
    "criteria": registry.CRITERIA,
}


def list_command(arguments: list[str]) -> int:
    if arguments == ["--json"]:
        groups = {title.replace(" ", "_"): {e.name: e.help for e in entries} for title, entries in _GROUPS.items()}
        print(json.dumps(groups, indent=2))
        return 0
    if arguments in (["-h"], ["--help"]):
        print("usage: optimality list [--json]\n\nProblems, methods and criteria by name.")
        return 0
    if arguments:
        return complain(f"list takes only --json, but {' '.join(arguments)} was given.")
    for title, entries in _GROUPS.items():
        print(f"{title}:")
        for entry in entries:
            print(f"  {entry.name:24} {entry.help}")
    print("Any Gymnasium id that exposes its table is a problem too: FrozenLake-v1, CliffWalking-v1, Taxi-v4.")
    return 0
