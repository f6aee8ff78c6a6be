"""`optimality doctor`: what this machine runs with, and one small solve to see that it works."""

import json
import os
import platform

from optimality.cli.main import complain


def doctor_command(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print("usage: optimality doctor [--json]\n\nVersions, devices, precision and compilation cache.")
        return 0
    if arguments not in ([], ["--json"]):
        return complain(f"doctor takes only --json, but {' '.join(arguments)} was given.")
    import jax

    import optimality as ox
    from optimality.experiments.run_folder import versions

    solution = ox.solve(ox.river_swim(criterion=ox.Discounted(0.95)), ox.PolicyIteration())
    error = abs(float(solution.value[0]) - 4.669300160655644)
    facts = {
        "versions": versions(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "jax_enable_x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "compilation_cache": os.environ.get("JAX_COMPILATION_CACHE_DIR", "off"),
        "self_test": "ok" if error < 1e-9 else f"a known value is off by {error:.3g}",
    }
    if arguments:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name:18} {', '.join(shown) if isinstance(shown, list) else shown}")
    return 0 if error < 1e-9 else 1
