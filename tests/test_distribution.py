"""What the distribution says of itself: its version, once, and where to find the rest."""

from importlib.metadata import metadata, version

import sansio_cache


def test_the_version_of_the_core_is_that_of_the_distribution():
    assert sansio_cache.__version__ == version("sansio-cache")


def test_the_distribution_tells_where_its_pages_are():
    labels = [url.split(",")[0] for url in metadata("sansio-cache").get_all("Project-URL") or []]

    assert sorted(labels) == ["Changelog", "Documentation", "Issues", "Source"]
