"""Sink types are found: the built-in ones always, others by their entry points, and broken ones say what is wrong."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import ValidationError

from handlers import registry
from handlers.contract import SinkError
from handlers.testing.conformance import NoServices
from receiver.config.loader import load
from receiver.errors import ConfigError
from tests.support.waiting import PATIENCE

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("toy", "toy = toy:ToySink", code)`: a distribution, as pip would leave it on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def put(distribution: str, entry_point: str, code: str | None = None) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[runhook.sinks]\n{entry_point}\n")
        if code is not None:
            (tmp_path / f"{distribution}.py").write_text(dedent(code))

    yield put
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


TOY = """
    from handlers.contract import Receipt, Sink, SinkOptions

    class ToyOptions(SinkOptions):
        colour: str = "red"

    class ToySink(Sink[ToyOptions]):
        Options = ToyOptions

        def send(self, delivery):
            return Receipt(id=delivery.key)
"""


def test_every_built_in_type_can_be_loaded() -> None:
    for name in registry.BUILT_IN:
        assert registry.sink_type(name).Options.model_json_schema()["type"] == "object"


def test_naming_the_types_imports_none_of_them() -> None:
    code = "import sys; from handlers import registry; registry.names(); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "False", done.stderr


def test_checking_options_of_files_loads_no_http_client() -> None:
    code = (
        "import sys; from handlers import Services, registry; "
        "registry.build('mine', 'files', {'path': '/out'}, Services()).close(); print('httpx2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "False", done.stderr


def test_the_entry_point_of_another_distribution_is_a_sink_type(install: Install) -> None:
    install("toy", "toy = toy:ToySink", TOY)
    assert "toy" in registry.sink_types()
    sink = registry.build("mine", "toy", {"colour": "blue"}, NoServices())
    assert (sink.name, sink.options.colour) == ("mine", "blue")


def test_a_wrong_option_is_a_validation_error(install: Install) -> None:
    install("toy", "toy = toy:ToySink", TOY)
    with pytest.raises(ValidationError, match="color"):
        registry.build("mine", "toy", {"color": "blue"}, NoServices())


def test_an_unknown_type_suggests_what_was_meant() -> None:
    with pytest.raises(KeyError, match=r"^unknown sink type 'databse'; did you mean database\?$"):
        registry.build("results", "databse", {}, NoServices())
    with pytest.raises(KeyError, match="known: database, files, http"):
        registry.sink_type("zzz")


@pytest.mark.parametrize(
    ("entry_point", "code", "says"),
    [
        ("toy = toy:ToySink", "import not_there", "can't be imported: ModuleNotFoundError: No module named"),
        ("toy = toy:ToySink", "def broken(:", "can't be imported: SyntaxError"),
        ("toy = toy:ToySnik", TOY, "can't be imported: AttributeError"),
        ("toy = toy_gone:ToySink", None, "can't be imported: ModuleNotFoundError"),
        ("toy = toy:ToyOptions", TOY, "is not a subclass of handlers.contract.Sink"),
        ("toy = toy:ToySink", TOY + "\n    ToySink.Options = dict", "its Options must be a subclass of SinkOptions"),
    ],
)
def test_broken_type_names_its_distribution_and_stops_no_other(
    install: Install, entry_point: str, code: str | None, says: str
) -> None:
    install("toy", entry_point, code)
    with pytest.raises(registry.BrokenSinkType) as caught:
        registry.sink_type("toy")
    assert says in str(caught.value)
    assert "of toy 1.0" in str(caught.value)
    assert "toy" not in registry.sink_types()
    assert registry.sink_type("database")


def test_two_distributions_that_claim_one_name_are_both_named(install: Install) -> None:
    install("toy", "toy = toy:ToySink", TOY)
    install("other", "toy = other:ToySink", TOY)
    with pytest.raises(registry.BrokenSinkType, match=r"claimed by .*(toy|other) 1\.0 and .*(toy|other) 1\.0"):
        registry.sink_type("toy")


def test_no_distribution_can_replace_a_built_in_type(install: Install) -> None:
    install("toy", "database = toy:ToySink", TOY)
    assert registry.sink_type("database").__module__.startswith("handlers.database")


def test_constructor_that_exits_is_the_sinks_error(install: Install, tmp_path: Path) -> None:
    # Given a type whose constructor ends the process
    leaving = (
        TOY
        + """
        def __init__(self, *arguments):
            super().__init__(*arguments)
            raise SystemExit("no licence")
"""
    )
    install("leaving", "leaving = leaving:ToySink", leaving)
    # When it is built, then that raises no SystemExit, which would end a thread without a word
    with pytest.raises(SinkError, match=r"'leaving' calls sys\.exit\('no licence'\)"):
        registry.build("mine", "leaving", {}, NoServices())
    # And a config with it is refused in one line
    config = tmp_path / "runhook.yaml"
    config.write_text("sources: {skyvern: {secrets: [s]}}\nsinks: {mine: {type: leaving}}\n")
    with pytest.raises(ConfigError, match=r"sinks\.mine: the constructor of sink type 'leaving' calls sys\.exit"):
        load(config, {})
