"""The command group `modernbert bench`: speed and memory on this machine, compared with other packages."""

import typer

from modernbert.cli.bench import accelerate, gpu, levels, retrieval, serving, speed, training

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine, compared with transformers and others.",
    epilog="""Examples:

    modernbert bench inference --model base --threads 2

    modernbert bench training --model base --device cuda""",
)
for commands in (speed, retrieval, accelerate, serving, training, levels, gpu):
    app.add_typer(commands.app)
