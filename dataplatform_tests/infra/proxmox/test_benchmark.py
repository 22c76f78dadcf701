from benchmarks.infra_plan import run


def test_plan_of_unchanged_machines_costs_at_most_two_calls_each() -> None:
    found = {one.what: one for one in run(quick=True).comparisons}
    assert {one.verdict for what, one in found.items() if "calls" in what} == {"met"}
    assert found["50 machines: calls each"].ratio < 1.2
