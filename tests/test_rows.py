"""The table of rows, its report `--rows`, and the harness for exact clauses."""

import shutil
from pathlib import Path

import pytest

from clauses import against
from rows_table import CLAUSE, parse_rows, unknown_clause

ROOT = Path(__file__).parent.parent
TABLE = """
| Row | Clauses | Statement |
| --- | --- | --- |
| S1 | — | one claim with a bar, p(a \\| s) |
| S2 | left, right | two claims |
| S143b | — | a letter in its number |
| E1.9 | offset, ratio_sum | an id with a dot |
"""
# Without the plugin of hypothesis, which would import hypothesis anew in each inner run.
SETTINGS = """
[tool.pytest.ini_options]
addopts = ["--strict-markers", "--import-mode=importlib", "-p", "no:hypothesispytest"]
pythonpath = ["tests"]
filterwarnings = ["error"]
markers = ["row(clause): a clause", "slow: slow"]
"""


@pytest.fixture
def run(pytester):
    """Run pytest on the source of one test file, beside the real conftest and harness and a small table."""
    (pytester.path / "tests").mkdir()
    (pytester.path / "docs").mkdir()
    shutil.copy(ROOT / "conftest.py", pytester.path)
    for module in ("rows_table.py", "clauses.py"):
        shutil.copy(ROOT / "tests" / module, pytester.path / "tests")
    (pytester.path / "docs" / "rows.md").write_text(TABLE, encoding="utf-8")
    (pytester.path / "pyproject.toml").write_text(SETTINGS, encoding="utf-8")

    def run(source, *options):
        head = "import pytest\nfrom clauses import against\n"
        (pytester.path / "tests" / "test_inner.py").write_text(head + source, encoding="utf-8")
        return pytester.runpytest("--rows", *options)

    return run


def rows(result):
    """The report of an inner run: the words after each row's id."""
    lines = [line.split() for line in result.outlines]
    return {line[0]: line[1:] for line in lines if line and line[0] in ("S1", "S2", "S143b", "E1.9")}


def test_row_is_proved_only_with_all_clauses(run):
    result = run(
        """
@pytest.mark.row("S2.left", "E1.9.offset")
def test_left(): pass

@pytest.mark.row("E1.9.ratio_sum")
@pytest.mark.row("S143b")
def test_sum(): pass
"""
    )
    result.assert_outcomes(passed=2)
    left, both = "tests/test_inner.py::test_left", "tests/test_inner.py::test_sum"
    assert rows(result) == {
        "S1": ["open"],
        "S2": ["open", left, "(lacks", "S2.right)"],
        "S143b": ["proved", both],
        "E1.9": ["proved", left, both],
    }
    assert "2 of 4 rows proved, 2 open" in result.outlines


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip\ndef test_it(): pass",
        "def test_it(): pytest.skip()",
        "@pytest.mark.xfail\ndef test_it(): assert False",
        "@pytest.mark.xfail\ndef test_it(): pass",
        "@pytest.mark.xfail(strict=True)\ndef test_it(): pass",
        "def test_it(): assert False",
        "@pytest.mark.slow\ndef test_it(): pass",
        "@pytest.mark.parametrize('n', [0, 1])\ndef test_it(n): assert n == 0",
        "@pytest.mark.parametrize('n', [1, 0])\ndef test_it(n): assert n == 0",
        "@pytest.mark.parametrize('n', [0, pytest.param(1, marks=pytest.mark.skip)])\ndef test_it(n): pass",
        "@pytest.mark.parametrize('n', [0, pytest.param(1, marks=pytest.mark.slow)])\ndef test_it(n): pass",
        "def test_it(broken_setup): pass",
        "def test_it(broken_teardown): pass",
        "def test_it(subtests):\n    with subtests.test('part'):\n        assert False",
    ],
)
def test_what_did_not_pass_proves_nothing(run, source):
    fixtures = """
@pytest.fixture
def broken_setup(): raise RuntimeError

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError

@pytest.mark.row("S143b")
def test_other(): pass

@pytest.mark.row("S1")
"""
    report = rows(run(fixtures + source, "-m", "not slow"))
    assert report["S1"] == ["open"]
    assert report["S143b"][0] == "proved"


def test_one_passing_test_is_enough_and_failing_ones_are_not_listed(run):
    result = run(
        """
@pytest.mark.row("S1")
class TestClass:
    @pytest.mark.parametrize("n", [0, 1])
    def test_good(self, n, x64): pass
    def test_bad(self): assert False
"""
    )
    result.assert_outcomes(passed=4, failed=1)
    assert rows(result)["S1"] == ["proved", "tests/test_inner.py::TestClass::test_good"]


def test_run_that_stops_early_leaves_the_rest_open(run):
    source = "def test_a(): assert False\n@pytest.mark.row('S1')\ndef test_b(): pass"
    assert rows(run(source, "-x"))["S1"] == ["open"]


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("'S1', 'S14'", "test_it: no clause 'S14' in docs/rows.md; nearest: S1*"),
        ("'S2.rigth'", "test_it: no clause 'S2.rigth' in docs/rows.md; nearest: S2.right*"),
        ("'S2'", "test_it: row S2 has several clauses, name one: S2.left, S2.right"),
        ("'S1.left'", "test_it: no clause 'S1.left'*nearest: *S2.left*"),
        ("7", "test_it: no clause '7' in docs/rows.md"),
        ("", "test_it: the row marker takes the names of clauses, at least one"),
        ("clause='S1'", "test_it: the row marker takes the names of clauses, at least one"),
    ],
)
def test_unknown_clause_stops_the_run(run, marker, message):
    result = run(f"@pytest.mark.row({marker})\ndef test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*{message}")


def test_clauses_are_in_the_user_properties(run):
    source = """
@pytest.mark.row("S2.left", "S2.right")
@pytest.mark.row("S1")
def test_it(request):
    assert request.node.user_properties == [("row", "S1"), ("row", "S2.left"), ("row", "S2.right")]
"""
    run(source).assert_outcomes(passed=1)


HARNESS = """
def double(x): return 2 * x
def same(x): return x
def crash(x): raise TypeError("crashed")
"""


@pytest.mark.parametrize(
    "decorators",
    [
        "@pytest.mark.row('S1')\n@against(double, same=same, square=lambda x: x * x)",
        "@against(double, same=same, square=lambda x: x * x)\n@pytest.mark.row('S1')",
    ],
)
def test_harness_passes_on_ours_and_fails_on_each_wrong_one(run, decorators):
    check = """
@pytest.mark.parametrize("x", [1, 3])
def test_double(implementation, x, x64, tmp_path):
    assert implementation(x) == x + x
"""
    result = run(HARNESS + decorators + check, "-v")
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(
        [f"*::test_double[[]*{name}*] PASSED*" for name in ("ours", "wrong-same", "wrong-square")]
    )
    assert rows(result)["S1"] == ["proved", "tests/test_inner.py::test_double"]


@pytest.mark.parametrize(
    ("ours", "wrong", "outcomes", "message"),
    [
        (
            "double",
            "double",
            {"passed": 1, "failed": 1},
            "*does not notice the wrong implementation 'other'*",
        ),
        ("double", "crash", {"passed": 1, "failed": 1}, "E*TypeError: crashed"),
        ("same", "same", {"passed": 1, "failed": 1}, "E*assert 2 == 4"),
        ("crash", "same", {"passed": 1, "failed": 1}, "E*TypeError: crashed"),
    ],
)
def test_harness_fails(run, ours, wrong, outcomes, message):
    check = f"@pytest.mark.row('S1')\n@against({ours}, other={wrong})\n"
    result = run(HARNESS + check + "def test_double(implementation):\n    assert implementation(2) == 4")
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(message)
    assert rows(result)["S1"] == ["open"]


def test_harness_refuses_a_check_that_nothing_fails():
    with pytest.raises(TypeError, match="at least one wrong implementation"):
        against(abs)


def test_harness_refuses_a_check_without_the_implementation():
    with pytest.raises(TypeError, match="must be named 'implementation'"):
        against(abs, wrong=len)(lambda function: None)


def test_harness_keeps_name_and_docstring():
    @against(abs, wrong=float)
    def check(implementation):
        """Absolute values are not negative."""

    assert (check.__name__, check.__doc__) == ("check", "Absolute values are not negative.")


def test_table_is_complete():
    table = parse_rows((ROOT / "docs" / "rows.md").read_text(encoding="utf-8"))
    numbered = [name for name in table if name.startswith("S")]
    assert sorted(numbered) == sorted([f"S{number}" for number in range(1, 161)] + ["S143b"])
    assert [name for name in table if name not in numbered] == [
        "E0.1",
        "E0.2",
        "E0.3",
        "E0.4",
        "E0.5",
        "E0.6",
        "E0.7",
        "E0.8",
        "E0.9",
        "E0.10",
        "E0.11",
        "E0.12",
        "E0.13",
        "E0.14",
        "E0.15",
        "E0.16",
        "E0.17",
        "E0.18",
        "E0.19",
        "E0.20",
        "E0.21",
        "E0.22",
        "E0.23",
        "E0.24",
        "E1.5",
        "E1.8",
        "E1.9",
        "E1.10",
        "E1.12",
        "E1.13",
        "E1.15",
        "E1.16",
        "E1.20",
        "E1.21",
        "E1.22",
        "E2.1",
        "E2.2",
        "E2.3",
        "E2.4",
        "E2.5",
        "E2.6",
        "E2.7",
        "E2.8",
        "E2.9",
        "E2.10",
        "E2.11",
        "E2.12",
        "E2.13",
        "E2.14",
        "E3.1",
        "E3.2",
        "E3.3",
        "E3.4",
        "E3.5",
        "E3.7",
        "E3.9",
        "E3.10",
        "E3.11",
        "E3.12",
        "E3.13",
        "E3.14",
        "E3.15",
        "E3.16",
        "E3.17",
        "E3.18",
        "E3.19",
        "E3.20",
        "E3.21",
        "E3.22",
        "E3.23",
        "E3.24",
        "E3.25",
        "E3.26",
        "E3.27",
        "E3.28",
    ]
    for row in table.values():
        assert row.clauses == (row.id,) or all(
            CLAUSE.fullmatch(clause.removeprefix(f"{row.id}.")) for clause in row.clauses
        )


def test_parser_reads_rows():
    table = parse_rows(TABLE)
    assert list(table) == ["S1", "S2", "S143b", "E1.9"]
    assert table["S1"].clauses == ("S1",)
    assert table["S1"].statement == "one claim with a bar, p(a \\| s)"
    assert table["E1.9"].clauses == ("E1.9.offset", "E1.9.ratio_sum")
    assert unknown_clause("E1.9.offset", table) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("| S1 | — | again |", "row S1 is in the table twice"),
        ("| S3 | Ties | text |", "'Ties' is not a clause name"),
        ("| S3 | a,, b | text |", "'' is not a clause name"),
        ("| S3 | a, a | text |", "names a clause twice"),
        ("| S3 | a |", "not a row of the form"),
        ("| S3 | a | text | more |", "not a row of the form"),
        ("| T3 | a | text |", "not a row of the form"),
        ("| S3 | a | |", "not a row of the form"),
    ],
)
def test_parser_refuses_malformed_rows(line, message):
    with pytest.raises(ValueError, match=message):
        parse_rows(TABLE + line)
