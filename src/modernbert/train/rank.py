"""Training of rankers: batches without repeated texts, cached gradients, the best model by nDCG@10."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, distributed, nn

from modernbert.errors import ConfigError
from modernbert.files import atomic_write, in_use
from modernbert.model.folder import find_folder, read_config
from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_modules import encoder_folder, predictor_name, read_modules
from modernbert.runtime import autocast
from modernbert.stream.batching import Batches, shuffled
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.batches import batches_without_repeats
from modernbert.tasks.ranking.encoding import encode_ranking, prompt_of
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.tasks.ranking.fusion import Scored
from modernbert.tasks.ranking.measures import Quality, System, evaluate_ranker
from modernbert.tasks.ranking.objective import RankingItem, RankingModel, RankingObjective
from modernbert.tasks.ranking.rankers import Bm25, EmbedderRanker, Ranker, TwoStageRanker
from modernbert.tasks.ranking.sparsity import initialize_sparse
from modernbert.tasks.ranking.whitening import initialize_whitening
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.retrieval_texts import RetrievalTokenizer
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.collection import Collection
from modernbert.text.framing import Ids
from modernbert.text.tokenizer import check_fits, load_tokenizer
from modernbert.train.distributed import Processes, processes
from modernbert.train.epochs import EpochLoop, ExampleUpdate, freeze
from modernbert.train.finetune_folder import claim_folder, replaced_results, tracking_of
from modernbert.train.ranking_data import RANKED_DOCUMENTS, guide_of, read_examples, read_validation, resolved_loss
from modernbert.train.ranking_recipe import RankingRecipe, model_settings
from modernbert.train.ranking_report import SELECTION_METRIC, SeedRun, ValidationResult, write_ranking_report
from modernbert.train.stopping import StopRequest
from modernbert.train.trackers import check_trackers, tracked_metrics

logger = logging.getLogger(__name__)

_KINDS: dict[str, type[RankingModel]] = {
    "embed": DenseEncoder,
    "multi-vector": MultiVectorEncoder,
    "sparse": SparseEncoder,
    "rerank": CrossEncoder,
}
_PREDICTORS: dict[str, Any] = {
    "embed": Embedder,
    "multi-vector": MultiVectorEmbedder,
    "sparse": SparseEmbedder,
    "rerank": Reranker,
}
_REPORT = "report.json"


def train_ranker(recipe: RankingRecipe, overwrite: bool = False) -> Path | None:
    """Train, select the best model and write the output folder; resume a stopped run.

    With `overwrite`, an existing run in the folder is removed first.
    Returns the folder, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the folder holds a run of another recipe, or the recipe does not fit the model or the data.
        DataError: a file or an example is invalid.
        CheckpointError: there is no such model.
    """
    check_trackers(recipe.machine.trackers, "machine.trackers")
    with StopRequest() as stop, processes(recipe.machine.device) as process_group:
        if process_group.first:
            claim_folder(recipe, overwrite=overwrite)
        process_group.wait()
        with in_use(recipe.output) if process_group.first else nullcontext():
            return _in_folder(recipe, process_group, stop)


def _in_folder(recipe: RankingRecipe, process_group: Processes, stop: StopRequest) -> Path | None:
    if (recipe.output / _REPORT).exists():
        logger.info("The run in %s is complete.", recipe.output)
        return recipe.output
    examples = read_examples(recipe)
    validation = read_validation(recipe)
    runs: list[RankerTraining] = []
    baselines = _Baselines(recipe)
    for seed in recipe.seeds:
        run = RankerTraining(recipe, examples, validation, seed, process_group)
        with tracked_metrics(run.metrics, tracking_of(recipe, seed)) if process_group.first else nullcontext():
            if process_group.first:
                baselines.measure(run)
            process_group.wait()
            if not run.train(stop):
                return None
        runs.append(run)
    if process_group.first:
        best = max(runs, key=lambda one: -math.inf if one.progress.best is None else one.progress.best)
        _write(recipe, best, runs, examples)
        logger.info("The model and its report are in %s.", recipe.output)
    process_group.wait()
    return recipe.output


def predictor_of(task: str, folder: Path, device: str) -> Any:
    """The predictor class for a ranker of this task."""
    return _PREDICTORS[task].from_pretrained(folder, device=device)


class _NoForward(nn.Module):
    """A wrapper of the model for the loop, whose forward pass is not used: a ranker computes its gradients itself."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model


class RankerTraining(EpochLoop):
    """The state of one run with one seed: model, optimizer and progress."""

    def __init__(
        self,
        recipe: RankingRecipe,
        examples: Sequence[RankingExample],
        validation: tuple[Collection, list[Scored] | None] | None,
        seed: int,
        processes: Processes,
    ) -> None:
        self.recipe, self.validation = recipe, validation
        torch.manual_seed(seed)
        ranker, self.tokenizer, self.max_length = load_ranker(recipe)
        ranker.to(processes.device).train()
        freeze(ranker, recipe.training)  # type: ignore[arg-type]
        self.ranker = ranker
        self.items = encode_ranking(examples, self.tokenizer, ranker.settings, self.max_length)
        _initialize_from(self.items, ranker, recipe)
        self.unique_texts = [item.unique_texts for item in self.items]
        by_source = recipe.data.one_source_per_batch
        self.sources = [example.source if by_source else "" for example in examples]
        self.loss = resolved_loss(recipe, examples)
        super().__init__(
            ranker,  # type: ignore[arg-type]
            _NoForward(ranker),
            processes,
            recipe=recipe,
            training=recipe.training,
            machine=recipe.machine,
            directory=recipe.output / "training" / f"seed-{seed}",
            seed=seed,
            num_examples=len(self.items),
            parallel=None,
        )
        texts = RetrievalTokenizer(self.tokenizer, ranker.settings, self.max_length)
        skipped = None
        if isinstance(ranker, MultiVectorEncoder):
            skipped = texts.skipped(ranker.settings, "document")
        prompts = [texts.prompt_tokens(prompt_of(ranker.settings, role)) for role in ("query", "document")]
        self.objective = RankingObjective(
            ranker,
            self.loss,
            tokens_at_once=recipe.machine.microbatch_tokens,
            precision=lambda: autocast(processes.device, self.precision),
            skipped=skipped,
            prompt_tokens=(prompts[0], prompts[1]),
            guide=None if recipe.loss.guide is None else guide_of(recipe.loss.guide, examples),
            group=distributed.group.WORLD if processes.size > 1 else None,
        )

    def batches(self, epoch: int) -> Batches:
        order = shuffled(len(self.items), self.seed, epoch).tolist()
        texts = (
            self.unique_texts if self.loss.name == "contrastive" and self.loss.settings.in_batch else [()] * len(order)
        )
        groups: dict[str, list[int]] = {}
        for index in order:
            groups.setdefault(self.sources[index], []).append(index)
        size = self.recipe.training.batch_examples
        batches = [
            batch for group in groups.values() for batch in batches_without_repeats(group, texts, size, last=False)
        ]
        if len(groups) > 1:
            batches = [batches[place] for place in shuffled(len(batches), self.seed, epoch).tolist()]
        usable = [batch for batch in batches if sum(len(self.items[index].documents) for index in batch) > 1]
        if not usable and self.loss.name == "contrastive":
            raise ConfigError("No two examples differ in query and positive, so no batch has a negative.")
        usable = usable or batches
        if min(map(len, usable)) < self.processes.size:
            raise ConfigError(
                f"A batch has fewer examples than there are processes ({self.processes.size}); start fewer of them, or "
                "raise training.batch_examples."
            )
        return usable

    def num_tokens(self, indices: Sequence[int]) -> int:
        return sum(self.items[index].num_tokens for index in indices)

    def backward(self, planned: ExampleUpdate, count: Tensor) -> Tensor:
        """Compute the complete loss in every process; each process embeds its own part of the examples."""
        items = [self.items[index] for index in planned.indices]
        loss = self.objective.backward(
            items,
            seed=self.dropout_seed(self.progress.step + 1),
            progress=self.run_fraction(planned),
            local_items=self.processes.share(items),
        )
        self.parallelism.sum_gradients()
        return torch.tensor(loss / self.processes.size, dtype=count.dtype, device=count.device)

    def scores(self) -> dict[str, float] | None:
        """The metrics on the validation collection, computed by the first process."""
        if self.validation is None:
            return None
        scores: list[dict[str, float]] = []
        if self.processes.first:
            scores.append({name: one.value for name, one in self.measure()[1].quality.items()})
        return self.processes.gather(scores)[0]

    def selection_score(self, scores: Mapping[str, float]) -> float:
        return scores[SELECTION_METRIC]

    def measure(self) -> tuple[list[Scored], System]:
        """The rankings of the current model on the validation collection, and their quality."""
        assert self.validation is not None
        collection, first = self.validation
        self.ranker.eval()
        predictor = _PREDICTORS[self.recipe.task](self.ranker, self.tokenizer, self.max_length)
        ranker: Ranker
        if first is None:
            ranker = EmbedderRanker(predictor, self.recipe.task, self.recipe.machine.microbatch_tokens)
        else:
            ranker = TwoStageRanker(first, predictor, self.recipe.data.validation_depth, self.recipe.task)
        result = evaluate_ranker(collection, ranker, RANKED_DOCUMENTS)
        self.ranker.train()
        return result

    def result(self) -> SeedRun:
        """The result of the run."""
        progress = self.progress
        return SeedRun(
            self.seed,
            progress.step,
            progress.tokens,
            self.stopwatch.seconds,
            progress.best_step,
            progress.best,
            self.metrics.read(),
        )


def load_ranker(recipe: RankingRecipe) -> tuple[RankingModel, Tokenizer, int]:
    """The model that a run starts from, its tokenizer, and the maximum number of tokens of a text.

    A folder of a ranker of this kind keeps its settings, and its length unless the recipe sets another one. From a
    ranker of another kind, only the encoder is used.

    Raises:
        ConfigError: the model cannot read `max_length` tokens.
        CheckpointError: there is no such model, or it is of another kind.
    """
    folder = find_folder(recipe.model)
    inside = encoder_folder(folder)
    config = read_config(inside)
    if recipe.max_length is not None and recipe.max_length > config.max_position_embeddings:
        raise ConfigError(
            f"max_length is {recipe.max_length}, but {recipe.model} reads {config.max_position_embeddings} tokens; "
            "lower it."
        )
    max_length = recipe.max_length or config.max_position_embeddings
    settings = None if _keeps_settings(recipe) else model_settings(recipe, config.hidden_size, max_length)
    kind: Any = _KINDS[recipe.task]
    model = kind.from_pretrained(folder, dtype=torch.float32, settings=settings)
    if settings is None:
        max_length = min(recipe.max_length or model.settings.max_length or max_length, max_length)
        model.settings = model.settings.model_copy(update={"max_length": max_length})
    if recipe.random_weights:
        reinitialized = kind(model.config, model.settings)
        reinitialized.tokenizer_source = model.tokenizer_source
        model = reinitialized
    tokenizer = load_tokenizer(inside)
    check_fits(tokenizer, config.vocab_size, recipe.model)
    return model, tokenizer, max_length


def _initialize_from(items: Sequence[RankingItem], ranker: RankingModel, recipe: RankingRecipe) -> None:
    """Set those parameters of a new ranker that depend on the training documents."""
    is_new, settings = not _keeps_settings(recipe), recipe.settings
    if isinstance(ranker, SparseEncoder) and (is_new or recipe.random_weights):
        initialize_sparse(ranker, _documents(items), settings.active_entries)
    if isinstance(ranker, DenseEncoder) and is_new and settings.whitening is not None:
        initialize_whitening(ranker, _documents(items), settings.whitening)


def _documents(items: Sequence[RankingItem]) -> list[Ids]:
    """The token ids of all different documents."""
    documents = {text: ids for item in items for text, ids in zip(item.document_texts, item.documents, strict=True)}
    return list(documents.values())


def _keeps_settings(recipe: RankingRecipe) -> bool:
    """Whether the model is already a ranker of this kind, which keeps its settings."""
    folder = find_folder(recipe.model)
    of_this_kind = predictor_name(folder) in (None, _PREDICTORS[recipe.task].__name__)
    return bool(read_modules(folder)) and of_this_kind


class _Baselines:
    """The scores of BM25 and of the untrained model on the validation collection, measured once per run."""

    def __init__(self, recipe: RankingRecipe) -> None:
        self.path = recipe.output / "training" / "baselines.json"

    def measure(self, run: RankerTraining) -> None:
        """Measure them, unless an earlier call of the run has done so."""
        if run.validation is None or self.path.exists() or run.progress.step:
            return
        collection, _ = run.validation
        baselines = {
            "BM25": evaluate_ranker(collection, Bm25(), RANKED_DOCUMENTS)[1],
            "before training": run.measure()[1],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial:
            partial.write_text(json.dumps({name: asdict(one)["quality"] for name, one in baselines.items()}))

    def read(self) -> dict[str, dict[str, Quality]]:
        if not self.path.exists():
            return {}
        baselines = json.loads(self.path.read_text(encoding="utf-8"))
        return {
            name: {measure: Quality(**one) for measure, one in quality.items()} for name, quality in baselines.items()
        }


def _write(
    recipe: RankingRecipe, best: RankerTraining, runs: Sequence[RankerTraining], examples: Sequence[RankingExample]
) -> None:
    """Write the model and its report, which replace the checkpoints."""
    if best.best_folder.exists():
        model = _KINDS[recipe.task].from_pretrained(best.best_folder)
        best.ranker.load_state_dict(model.state_dict())
    best.ranker.eval()
    validated = None
    if best.validation is not None:
        run, system = best.measure()
        validated = ValidationResult(best.validation[0], run, system, _Baselines(recipe).read())
    results = {one.seed: one.result() for one in runs}
    with replaced_results(recipe) as partial:
        best.ranker.save_pretrained(partial, best.ranker.tokenizer_source)
        with (partial / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for result in results.values():
                for line in result.curve:
                    file.write(json.dumps({"seed": result.seed, **line}) + "\n")
        write_ranking_report(
            recipe, best.loss.name, examples, list(results.values()), results[best.seed], validated, partial
        )
