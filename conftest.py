"""Settings of all tests, and `pytest --rows`: which rows of docs/rows.md did this run prove?"""

import os
from collections import defaultdict
from pathlib import Path

# Commands in processes of their own compile what others have compiled. Set before JAX is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

from rows_table import Row, parse_rows, unknown_clause

os.environ["MPLBACKEND"] = "Agg"
# The tests compile thousands of tiny programs that each run once: without this emitter that takes half the time.
# .ci/run tests the kernels once more as users compile them.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

pytest_plugins = ["pytester"]

PHASES = {"setup", "call", "teardown"}


MOST_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Every compiled program maps memory, and the kernel allows 65,530 mappings: beyond them the compiler crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(params=[False, True], ids=["x64-off", "x64-on"])
def x64(request):
    """Run the test once without and once with 64-bit numbers; the value says which."""
    with jax.enable_x64(request.param):
        yield request.param


def pytest_addoption(parser):
    parser.addoption("--rows", action="store_true", help="end with one line a row of docs/rows.md: proved or open")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Rows are followed in one process: who proves what is known where tests are collected."""
    if config.getoption("--rows"):
        config.option.numprocesses = None


def pytest_configure(config):
    page = Path(__file__).parent / "docs" / "rows.md"
    config.pluginmanager.register(Rows(parse_rows(page.read_text(encoding="utf-8"))), "rows")


class Rows:
    """Checks the `row` markers against the table, and follows which tests passed."""

    def __init__(self, table: dict[str, Row]):
        self.table = table
        self.tests: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # clause, test, node ids
        self.passed: dict[str, set[str]] = defaultdict(set)  # node id, phases
        self.spoiled: set[str] = set()

    # First, so that a deselected parameter is seen too: a test proves its clause with all its parameters.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        errors = []
        for item in items:
            test = item.nodeid.removesuffix(f"[{item.callspec.id}]") if hasattr(item, "callspec") else item.nodeid
            for mark in item.iter_markers("row"):
                if not mark.args or mark.kwargs:
                    errors.append(f"{test}: the row marker takes the names of clauses, at least one")
                for clause in mark.args:
                    if error := unknown_clause(str(clause), self.table):
                        errors.append(f"{test}: {error}")
                    item.user_properties.append(("row", clause))
                    self.tests[clause][test].add(item.nodeid)
        if errors:
            raise pytest.UsageError("\n".join(dict.fromkeys(errors)))

    def pytest_runtest_logreport(self, report):
        if report.passed and not hasattr(report, "wasxfail"):
            self.passed[report.nodeid].add(report.when)
        else:
            self.spoiled.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter, config):
        if not config.getoption("--rows"):
            return
        terminalreporter.section("rows")
        proved = []
        for row in self.table.values():
            proofs = {clause: self.proofs(clause) for clause in row.clauses}
            lacking = [clause for clause in row.clauses if not proofs[clause]]
            line = f"{row.id:6} {'open' if lacking else 'proved':6} "
            line += " ".join(dict.fromkeys(test for tests in proofs.values() for test in tests))
            if 0 < len(lacking) < len(row.clauses):
                line += f" (lacks {', '.join(lacking)})"
            terminalreporter.write_line(line.rstrip())
            if not lacking:
                proved.append(row.id)
        terminalreporter.write_line(
            f"{len(proved)} of {len(self.table)} rows proved, {len(self.table) - len(proved)} open"
        )

    def proofs(self, clause: str) -> list[str]:
        """The tests marked with the clause that passed, with every parameter and in every phase."""
        return [
            test
            for test, nodes in self.tests.get(clause, {}).items()
            if all(self.passed[node] == PHASES and node not in self.spoiled for node in nodes)
        ]
