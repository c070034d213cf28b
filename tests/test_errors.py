import pytest

from modernbert.errors import BackendError, CheckpointError, ConfigError, DataError, ProcessError


@pytest.mark.parametrize("kind", [BackendError, CheckpointError, ConfigError, DataError, ProcessError])
def test_a_message_is_one_line_whatever_it_quotes(kind):
    assert str(kind("there is no 'a\nb\x1b[31m'; 東京 é")) == "there is no 'a\\nb\\x1b[31m'; 東京 é"
