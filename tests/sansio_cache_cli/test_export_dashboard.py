"""`sansio-cache export-dashboard`: what `sansio_cache_prometheus` has, to a file or to be read."""

from __future__ import annotations

import json

from sansio_cache_prometheus import alert_rules, dashboard


def test_it_prints_the_dashboard_and_the_rules(run):
    assert run("export-dashboard").out.strip() == dashboard().strip()
    assert run("export-dashboard", "--alerts").out.strip() == alert_rules().strip()
    ran = run("export-dashboard", "--json")
    assert ran.out.count("\n") == 1
    assert ran.json() == json.loads(dashboard())


def test_a_file_is_written_and_one_that_is_there_stays(run, tmp_path):
    path = tmp_path / "dashboard.json"
    assert run("export-dashboard", "--output", str(path)).status == 0
    assert json.loads(path.read_text()) == json.loads(dashboard())
    path.write_text("mine")
    ran = run("export-dashboard", "--output", str(path))
    assert (ran.status, "is there already" in ran.err, path.read_text()) == (1, True, "mine")
    ran = run("export-dashboard", "--output", str(tmp_path / "no" / "file"))
    assert (ran.status, "cannot be written: No such file" in ran.err) == (1, True)
