"""`modernbert serve`: serve models with the protocols of existing clients."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    "serve",
    epilog="""Examples:

    modernbert serve output/embedder

    modernbert serve output/embedder output/reranker output/entities --port 8080 --api-key secret

    modernbert serve output/embedder --served-model-name text-embedding --host 0.0.0.0 --int8""",
)
def serve_models(
    models: Annotated[list[str], typer.Argument(help="Model folders or hub ids; their kinds are detected.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 chooses a free one.")] = 3000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="The name in requests, once for each model, in order.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Required of every request.", envvar="MODERNBERT_API_KEY", show_envvar=True)
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a web page that may call; * is any; may be repeated.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a text. [default: as trained]")] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Packed tokens of a batch. [default: 2,048 on a CPU, 65,536 on CUDA]")
    ] = None,
    max_client_batch_size: Annotated[int, typer.Option(help="Maximum number of texts in a request.")] = 1024,
    max_concurrent_requests: Annotated[
        int, typer.Option(help="Maximum number of concurrent requests; more get status 429.")
    ] = 512,
    max_queue_tokens: Annotated[
        int, typer.Option(help="Maximum number of tokens in a model's queue; more get status 429.")
    ] = 262_144,
    patience: Annotated[
        float, typer.Option(help="Maximum seconds during which short texts may overtake a long one.")
    ] = 0.5,
    payload_limit: Annotated[
        int, typer.Option(help="Maximum bytes of a body; larger ones get status 413.")
    ] = 2_000_000,
    auto_truncate: Annotated[bool, typer.Option(help="Truncate long texts, unless a request says otherwise.")] = True,
    tokenization_workers: Annotated[int, typer.Option(help="Number of threads for tokenization.")] = 2,
    shutdown_seconds: Annotated[int, typer.Option(help="Time to finish requests after SIGTERM.")] = 60,
    revision: Annotated[str | None, typer.Option(help="The revision of hub ids.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: as in the file]")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in int8, on a CPU.")] = False,
) -> None:
    """Serve models over HTTP with the APIs of text-embeddings-inference, OpenAI, Cohere and vLLM, and a web page."""
    from modernbert.serve import serve

    limits = {
        "host": host,
        "port": port,
        "api_key": api_key,
        "cors_allow_origin": tuple(cors_allow_origin or ()),
        "max_batch_tokens": max_batch_tokens,
        "max_client_batch_size": max_client_batch_size,
        "max_concurrent_requests": max_concurrent_requests,
        "max_queue_tokens": max_queue_tokens,
        "patience": patience,
        "payload_limit": payload_limit,
        "auto_truncate": auto_truncate,
        "tokenization_workers": tokenization_workers,
        "shutdown_seconds": shutdown_seconds,
    }
    serve(
        models,
        served_model_names=served_model_name or (),
        max_length=max_length,
        revision=revision,
        device=device,
        dtype=dtype,
        int8=int8,
        ready=lambda address, names: typer.echo(f"Serving {', '.join(names)} on {address}"),
        **limits,
    )
