import json

import pytest

from modernbert import installation
from modernbert.installation import install_command


@pytest.fixture(autouse=True)
def forgotten():
    installation._requirement.cache_clear()
    yield
    installation._requirement.cache_clear()


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'modernbert[plot]'"),
        ({"url": "file:///a%20b/modernbert", "dir_info": {"editable": True}}, "pip install -e '/a b/modernbert[plot]'"),
        ({"url": "file:///home/modernbert", "dir_info": {}}, "pip install '/home/modernbert[plot]'"),
        (
            {"url": "file:///tmp/modernbert-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install '/tmp/modernbert-0.1.0-py3-none-any.whl[plot]'",
        ),
        (
            {"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'modernbert[plot] @ git+https://example.org/a.git@abc'",
        ),
    ],
)  # fmt: skip
def test_an_optional_part_is_installed_from_where_the_package_came(monkeypatch, origin, command):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(installation, "distribution", lambda name: Installed())
    assert install_command("plot") == command


def test_a_source_tree_that_is_not_installed_names_itself(monkeypatch):
    def missing(name):
        raise installation.PackageNotFoundError(name)

    monkeypatch.setattr(installation, "distribution", missing)
    assert install_command("corpus").startswith("pip install -e '/")
    assert install_command("corpus").endswith("[corpus]'")
