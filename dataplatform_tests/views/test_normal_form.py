"""Two definitions have one normal form exactly where they mean the same, however they are written."""

import pytest

from dataplatform.lake.normal_form import normal_form


@pytest.mark.parametrize(
    ("written", "as_trino_gives_it_back"),
    [
        ("SELECT 0.5 AS x", "SELECT DECIMAL '0.5' x"),
        ("SELECT 6e1 AS x", "SELECT 6E1 x"),
        ("SELECT 100e0 AS x", "SELECT 1E2 x"),
        ("SELECT a || b || c AS x FROM t", "SELECT concat(concat(a, b), c) x FROM t"),
        ("SELECT -a AS x FROM t", "SELECT -(a) x FROM t"),
        ("SELECT a - b - c AS x FROM t", "SELECT ((a - b) - c) x FROM t"),
        ("SELECT a FROM t WHERE a AND b AND c", "SELECT a FROM t WHERE (a AND b AND c)"),
        ("SELECT a FROM t WHERE a NOT IN (1, 2)", "SELECT a FROM t WHERE (NOT (a IN (1, 2)))"),
        ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a ASC"),
        ("SELECT A FROM T -- why", 'SELECT a FROM "t"'),
        (
            "SELECT a.x FROM a INNER JOIN b ON a.x = b.x LEFT OUTER JOIN c ON a.x = c.x CROSS JOIN d",
            "SELECT a.x FROM (((a JOIN b ON (a.x = b.x)) LEFT JOIN c ON (a.x = c.x)) CROSS JOIN d)",
        ),
    ],
)
def test_layouts_of_one_definition_are_one(written: str, as_trino_gives_it_back: str) -> None:
    assert normal_form(written) == normal_form(as_trino_gives_it_back)
    assert normal_form(normal_form(written)) == normal_form(written)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT (a + b) * c", "SELECT a + b * c"),
        ("SELECT a - (b - c)", "SELECT a - b - c"),
        ("SELECT a - (b + c)", "SELECT a - b + c"),
        ("SELECT a / (b * c)", "SELECT a / b * c"),
        ("SELECT -(a + b)", "SELECT -a + b"),
        ("SELECT NOT (a AND b)", "SELECT NOT a AND b"),
        ("SELECT a AND (b OR c)", "SELECT a AND b OR c"),
        ("SELECT (a = b) = c", "SELECT a = (b = c)"),
        ("SELECT (a IS NULL) = b", "SELECT a IS NULL AND b"),
        ("SELECT CAST(a AS double) / b", "SELECT CAST(a / b AS double)"),
        ("SELECT 1e0", "SELECT 1"),
        ("SELECT 1e0", "SELECT 1.0"),
        ("SELECT 1e1", "SELECT 1e2"),
        ("SELECT 'A'", "SELECT 'a'"),
        ("SELECT x FROM t ORDER BY x DESC", "SELECT x FROM t ORDER BY x"),
        ("SELECT x FROM t ORDER BY x NULLS FIRST", "SELECT x FROM t ORDER BY x"),
        ("SELECT x FROM a UNION SELECT x FROM b", "SELECT x FROM a UNION ALL SELECT x FROM b"),
        ("SELECT count(x) FROM t", "SELECT count(DISTINCT x) FROM t"),
        (
            "SELECT 1 FROM a LEFT JOIN (b JOIN c ON b.x = c.x) ON a.x = b.x",
            "SELECT 1 FROM a LEFT JOIN b ON a.x = b.x JOIN c ON b.x = c.x",
        ),
    ],
)
def test_what_means_something_else_reads_otherwise(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)
