"""Serve models over HTTP under the protocols that clients already speak. Needs the extra `serve`."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from modernbert.errors import ConfigError
from modernbert.installation import install_command

CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 2048, 65_536

__all__ = ["serve"]


def serve(
    models: Sequence[str],
    *,
    served_model_names: Sequence[str] = (),
    max_length: int | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    int8: bool = False,
    ready: Callable[[str, list[str]], None] = lambda address, names: None,
    **settings: Any,
) -> None:
    """Load models and serve them until SIGTERM or Ctrl-C. Accepted requests are finished before the server stops.

    `settings` are those of `ServeSettings`. `ready` is called with the address and the names of the models.

    Raises:
        ConfigError: a package of the extra `serve` is missing, a setting is wrong, or the address is in use.
        CheckpointError, DataError, BackendError: a model cannot be loaded.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", "orjson") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"Serving needs {', '.join(missing)}; install them with: {install_command('serve')}")
    from modernbert.config import parse
    from modernbert.serve.settings import ServeSettings

    given = {name: value for name, value in settings.items() if value is not None}
    parse(ServeSettings, given, "the options of serve")  # report a wrong option before models load, which is slow
    from modernbert.serve.computing import Server
    from modernbert.serve.loading import load_all
    from modernbert.serve.running import serve as run

    loaded = load_all(
        models, served_model_names, max_length=max_length, revision=revision, device=device, dtype=dtype, int8=int8
    )
    on_cpu = all(model.device == "cpu" for model in loaded)
    given.setdefault("max_batch_tokens", CPU_BATCH_TOKENS if on_cpu else CUDA_BATCH_TOKENS)
    server = Server.of(loaded, parse(ServeSettings, given, "the options of serve"))
    run(server, ready=lambda address: ready(address, [model.name for model in loaded]))
