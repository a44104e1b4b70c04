"""What every connector must do, as tests. Subclass `Conformance` in a test module and give it a `config` fixture:

    class TestDuckDB(Conformance):
        @pytest.fixture
        def config(self, tmp_path):
            return DuckDBConfig(str(tmp_path / "dwh.duckdb"))

A kind that only reads takes `ReadingConformance`, and says in `expose` how somebody else fills a table there.

`config` is a connection to an empty warehouse whose set-up script has been run. Where a kind cannot do a thing, it says
so by the class attributes of `Situations`, not by leaving tests out. Needs pytest and hypothesis.
"""

from isthmus.testing.conformance.loading import Loading
from isthmus.testing.conformance.reading import Reading
from isthmus.testing.conformance.reading_only import ReadingOnly
from isthmus.testing.conformance.trouble import LoadingTrouble, Trouble
from isthmus.testing.conformance.values import Values

__all__ = ["Conformance", "ReadingConformance"]


class Conformance(Loading, Values, Reading, LoadingTrouble):
    """The whole suite. Situations are the names of the tests."""


class ReadingConformance(Reading, ReadingOnly, Trouble):
    """What of the suite applies to a kind that only reads."""
