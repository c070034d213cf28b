"""Training of rankers: batches without repeated texts, cached gradients, the best model by nDCG@10."""

import json
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from modernbert import config as toml
from modernbert.errors import ConfigError, DataError
from modernbert.files import replaced_file, settle
from modernbert.model.folder import find_folder, read_config
from modernbert.model.retrieval import CrossEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from modernbert.model.retrieval_folder import read_modules
from modernbert.run_metrics import Metrics
from modernbert.runtime import autocast, select_device, select_precision
from modernbert.stream.batching import shuffled
from modernbert.tasks.embed import Embedder
from modernbert.tasks.multi_vector import MultiVectorEmbedder
from modernbert.tasks.ranking.batches import batches_without_repeats
from modernbert.tasks.ranking.encoding import encode_ranking, prompt_of
from modernbert.tasks.ranking.examples import RankingExample, judged_pairs, read_ranking
from modernbert.tasks.ranking.measures import evaluate_ranker
from modernbert.tasks.ranking.mining import with_bm25_negatives
from modernbert.tasks.ranking.objective import Guide, RankingItem, RankingModel, RankingObjective
from modernbert.tasks.ranking.rankers import Bm25, Model, Ranker, Reranked, Scored
from modernbert.tasks.ranking.recipe import RankingData, RankingRecipe, model_settings
from modernbert.tasks.ranking.settings import ResolvedLoss
from modernbert.tasks.ranking.unlabelled import unlabelled_pairs
from modernbert.tasks.rerank import Reranker
from modernbert.tasks.retrieval_texts import RetrievalTokenizer
from modernbert.tasks.sparse import SparseEmbedder
from modernbert.text.collection import Collection, Document, read_collection, read_documents
from modernbert.text.tokenizer import check_fits, load_tokenizer
from modernbert.train import checkpoint
from modernbert.train.finetune import DivergedError, freeze, layer_groups, schedule_factor
from modernbert.train.optimizer import StableAdamW
from modernbert.train.run_folder import in_use
from modernbert.train.stopping import StopRequest

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


@dataclass(frozen=True)
class RankingProgress:
    """How far a run has come."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training, evaluations not included
    best: float | None = None
    best_step: int = 0
    since_best: int = 0  # evaluations
    done: bool = False


def train_ranker(recipe: RankingRecipe) -> Path | None:
    """Train, choose the best model and write the output folder; go on where it stopped.

    Returns the folder, or None if the user asked to stop (everything is saved then).

    Raises:
        ConfigError: the folder holds a run of another recipe, or the recipe does not fit the model or the data.
        DataError: a file or an example is wrong.
        CheckpointError: there is no such model.
    """
    _claim(recipe)
    with StopRequest() as stop, in_use(recipe.output):
        if (recipe.output / _REPORT).exists():
            logger.info("The run in %s is complete.", recipe.output)
            return recipe.output
        examples = read_examples(recipe)
        validation = _validation(recipe)
        runs: list[RankerTraining] = []
        for seed in recipe.seeds:
            run = RankerTraining(recipe, examples, validation, seed)
            if not run.train(stop):
                return None
            runs.append(run)
        best = max(runs, key=lambda one: -math.inf if one.progress.best is None else one.progress.best)
        _write(recipe, best, runs, len(examples))
    logger.info("The model and its report are in %s.", recipe.output)
    return recipe.output


def read_examples(recipe: RankingRecipe) -> list[RankingExample]:
    """All examples of a recipe, those of files first.

    Raises:
        DataError: an example is wrong, or there is none.
    """
    data = recipe.data
    found: list[RankingExample] = []
    if data.train is not None:
        found += read_ranking(data.train, data.columns, skip_bad=recipe.skip_bad)
    for path in data.collections:
        collection = read_collection(path, data.split, skip_bad=recipe.skip_bad)
        found += _with_negatives(judged_pairs(collection), collection.documents.values(), data)
    for path in data.documents:
        documents = read_documents(path, skip_bad=recipe.skip_bad).values()
        pairs = list(unlabelled_pairs(documents, data.unlabelled, 0, path))
        chosen = sorted(shuffled(len(pairs), 0, 0)[: data.most_unlabelled].tolist())
        found += _with_negatives([pairs[index] for index in chosen], documents, data)
    if not found:
        raise DataError("There is no example to learn from; see data.train, data.collections and data.documents.")
    return found


def _with_negatives(
    pairs: list[RankingExample], documents: Iterable[Document], data: RankingData
) -> list[RankingExample]:
    if not data.hard_negatives:
        return pairs
    contents = [document.content for document in documents]
    return with_bm25_negatives(pairs, contents, data.hard_negatives, data.negatives_from)


class RankerTraining:
    """The state of one run, with one seed: model, optimizer and progress."""

    def __init__(
        self,
        recipe: RankingRecipe,
        examples: Sequence[RankingExample],
        validation: tuple[Collection, list[Scored] | None] | None,
        seed: int,
    ) -> None:
        self.recipe, self.validation, self.seed = recipe, validation, seed
        self.directory = recipe.output / "training" / f"seed-{seed}"
        self.device = select_device(recipe.machine.device)
        chosen = recipe.machine.precision
        precision = select_precision(self.device) if chosen == "auto" else chosen
        torch.manual_seed(seed)
        self.model, self.tokenizer, max_length = load_ranker(recipe)
        self.model.to(self.device).train()
        freeze(self.model, recipe.training)  # type: ignore[arg-type]
        self.max_length = max_length
        self.items = encode_ranking(examples, self.tokenizer, self.model.settings, max_length)
        texts = RetrievalTokenizer(self.tokenizer, self.model.settings, max_length)
        skipped = None
        if isinstance(self.model, MultiVectorEncoder):
            skipped = texts.skipped(self.model.settings, "document")
        prompts = [texts.prompt_tokens(prompt_of(self.model.settings, role)) for role in ("query", "document")]
        self.loss = resolved_loss(recipe, examples)
        self.objective = RankingObjective(
            self.model,
            self.loss,
            tokens_at_once=recipe.machine.microbatch_tokens,
            precision=lambda: autocast(self.device, precision),
            skipped=skipped,
            prompt_tokens=(prompts[0], prompts[1]),
            guide=None if recipe.loss.guide is None else _guide(recipe.loss.guide, examples),
        )
        self.names = [item.names for item in self.items]
        self.metrics = Metrics(self.directory / "metrics.jsonl")
        assert self.model.tokenizer_source is not None
        self.checkpoints = checkpoint.Checkpoints(
            self.directory / "checkpoints", toml.dump(recipe), self.model.tokenizer_source, checkpoint.Keep(1)
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        self.progress = RankingProgress()
        found = checkpoint.newest(self.checkpoints.directory)
        if found:
            state = checkpoint.restore_weights(found, self.model)  # type: ignore[arg-type]
            self.progress = RankingProgress(**{one.name: state[one.name] for one in fields(RankingProgress)})
            logger.info("Going on from step %d of seed %d.", self.progress.step, seed)
        self.metrics.forget_after(self.progress.step)
        rate = recipe.training.learning_rate
        groups = layer_groups(self.model, recipe.training)  # type: ignore[arg-type]
        self.optimizer = StableAdamW(groups, lr=rate, peak_lr=rate)
        if found:
            checkpoint.restore_moments(found, self.model, self.optimizer)  # type: ignore[arg-type]

    def train(self, stop: StopRequest) -> bool:
        """All epochs that are left. False if `stop` was raised on the way."""
        from tqdm import tqdm

        training = self.recipe.training
        steps = [self._batches(epoch) for epoch in range(training.epochs)]
        total = sum(map(len, steps))
        bar = tqdm(total=total, initial=self.progress.step, unit="step", desc=f"seed {self.seed}", leave=False)
        losses: list[float] = []
        while not self.progress.done:
            batches = steps[self.progress.epoch]
            ends = {
                math.ceil(number * len(batches) / training.evaluations_per_epoch)
                for number in range(1, training.evaluations_per_epoch + 1)
            }
            for batch in batches[self.progress.batch :]:
                losses.append(self._update(batch, total))
                bar.update()
                evaluated = self.progress.batch in ends
                if evaluated or self.progress.step % max(1, total // 50) == 0:
                    self._report(losses)
                    losses = []
                if evaluated:
                    self._evaluate(bar)
                if self.progress.batch == len(batches):
                    over = self.progress.epoch + 1 == training.epochs
                    self.progress = replace(
                        self.progress, epoch=self.progress.epoch + 1, batch=0, done=over or self.progress.done
                    )
                stopping = stop.requested  # read once: a signal may come at any time
                if evaluated or stopping:
                    state = asdict(self.progress) | {"phase": 0, "phase_end": False, "validation_loss": None}
                    snapshot = checkpoint.Snapshot.of(self.model, self.optimizer, state, copied=True)  # type: ignore[arg-type]
                    self.checkpoints.save(snapshot)
                if stopping and not self.progress.done:
                    self.checkpoints.wait()
                    bar.close()
                    logger.info("Stopped and saved at step %d; the same command goes on.", self.progress.step)
                    return False
                if self.progress.done:
                    break
        self.checkpoints.wait()
        bar.close()
        return True

    def best_folder(self) -> Path | None:
        """The model of the best evaluation, if there was one."""
        folder = self.directory / "best"
        return folder if folder.exists() else None

    def _batches(self, epoch: int) -> list[list[int]]:
        order = shuffled(len(self.items), self.seed, epoch).tolist()
        names = self.names if self.loss.name == "contrastive" and self.loss.settings.in_batch else [()] * len(order)
        batches = batches_without_repeats(order, names, self.recipe.training.batch_examples, last=False)
        found = [batch for batch in batches if sum(len(self.items[index].documents) for index in batch) > 1]
        if not found and self.loss.name == "contrastive":
            raise ConfigError("No two examples differ in query and positive, so there is nothing to learn from them.")
        return found or batches

    def _update(self, batch: list[int], total: int) -> float:
        began = time.perf_counter()
        items = [self.items[index] for index in batch]
        step = self.progress.step
        loss = self.objective.backward(items, seed=(self.seed << 32) + step + 1, progress=step / total)
        if not math.isfinite(loss):
            self.checkpoints.wait()
            raise DivergedError(
                f"The loss is not finite at step {step + 1}: lower training.learning_rate, or lengthen training.warmup."
            )
        factor = schedule_factor(self.recipe.training, (step + 0.5) / total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.step(self.recipe.training.max_grad_norm or None)
        self.optimizer.zero_grad()
        self.progress = replace(
            self.progress,
            batch=self.progress.batch + 1,
            step=step + 1,
            tokens=self.progress.tokens + sum(item.num_tokens for item in items),
            seconds=self.progress.seconds + time.perf_counter() - began,
        )
        return loss

    def _report(self, losses: list[float]) -> None:
        progress = self.progress
        self.metrics.write(
            {
                "step": progress.step,
                "loss": sum(losses) / len(losses),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "tokens_per_second": progress.tokens / progress.seconds,
            }
        )

    def _evaluate(self, bar: Any) -> None:
        """Measure the validation collection, keep the model if it is the best, end if it was not for too long."""
        if self.validation is None:
            return
        collection, first = self.validation
        self.model.eval()
        predictor = _PREDICTORS[self.recipe.task](self.model, self.tokenizer, self.max_length)
        ranker: Ranker
        if first is None:
            ranker = Model(predictor, self.recipe.task, self.recipe.machine.microbatch_tokens)
        else:
            ranker = Reranked(first, predictor, self.recipe.data.validation_depth, self.recipe.task)
        _, system = evaluate_ranker(collection, ranker, 100)
        self.model.train()
        found = {name: quality.value for name, quality in system.quality.items()}
        self.metrics.write({"step": self.progress.step, "validation": found})
        score = found["nDCG@10"]
        bar.write(f"seed {self.seed}, step {self.progress.step}: nDCG@10 {score:.4f}", file=bar.fp)
        if self.progress.best is None or score > self.progress.best:
            self.model.save_pretrained(self.directory / "best")
            self.progress = replace(self.progress, best=score, best_step=self.progress.step, since_best=0)
            return
        since, patience = self.progress.since_best + 1, self.recipe.training.patience
        self.progress = replace(self.progress, since_best=since, done=patience is not None and since >= patience)


def load_ranker(recipe: RankingRecipe) -> tuple[RankingModel, Tokenizer, int]:
    """The model that a run begins with, its tokenizer, and how many tokens it reads of a text.

    A folder of a ranker of this kind keeps its own settings, and its length unless the recipe says another.

    Raises:
        ConfigError: the model does not read as much as the recipe says.
        CheckpointError: there is no such model, or it is of another kind.
    """
    folder = find_folder(recipe.model)
    config = read_config(folder)
    if recipe.max_length is not None and recipe.max_length > config.max_position_embeddings:
        raise ConfigError(
            f"max_length is {recipe.max_length}, but {recipe.model} reads {config.max_position_embeddings} tokens; "
            "lower it."
        )
    max_length = recipe.max_length or config.max_position_embeddings
    settings = None if read_modules(folder) else model_settings(recipe, config.hidden_size, max_length)
    kind: Any = _KINDS[recipe.task]
    model = kind.from_pretrained(folder, dtype=torch.float32, settings=settings)
    if settings is None:
        max_length = min(recipe.max_length or model.settings.max_length or max_length, max_length)
        model.settings = model.settings.model_copy(update={"max_length": max_length})
    if recipe.random_weights:
        fresh = kind(model.config, model.settings)
        fresh.tokenizer_source = model.tokenizer_source
        model = fresh
    tokenizer = load_tokenizer(folder)
    check_fits(tokenizer, config.vocab_size, recipe.model)
    return model, tokenizer, max_length


def resolved_loss(recipe: RankingRecipe, examples: Sequence[RankingExample]) -> ResolvedLoss:
    """The loss of a recipe for these examples.

    Raises:
        ConfigError: it needs scores that examples do not have, or lists where there are pairs.
    """
    scored = [example.scores is not None for example in examples]
    if any(scored) and not all(scored):
        lacking = examples[scored.index(False)]
        raise ConfigError(f"{lacking.origin} has no scores where other examples do; give all of them scores, or none.")
    try:
        loss = recipe.loss.of(recipe.task, all(scored))
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    lists = loss.name in ("margin-mse", "kl", "lambda") or (
        loss.name == "contrastive" and (recipe.task == "rerank" or not recipe.loss.in_batch)
    )
    short = next((example for example in examples if lists and len(example.documents) < 2), None)
    if short is not None:
        raise ConfigError(
            f"{short.origin} has one document, but the loss {loss.name!r} compares several; add negatives."
        )
    return loss


def _guide(source: str, examples: Sequence[RankingExample]) -> Guide:
    """Scores of a batch by another embedder, whose vectors of all texts are made once."""
    embedder = Embedder.from_pretrained(source)
    queries = list({example.query: None for example in examples})
    documents = list({text: None for example in examples for text in example.documents})
    of_query = dict(zip(queries, torch.from_numpy(embedder.encode_query(queries)), strict=True))
    of_document = dict(zip(documents, torch.from_numpy(embedder.encode_document(documents)), strict=True))

    def scores(items: Sequence[RankingItem]) -> torch.Tensor:
        asked = torch.stack([of_query[item.name] for item in items])
        return embedder.similarity(
            asked, torch.stack([of_document[text] for item in items for text in item.document_names])
        )

    return scores


def _validation(recipe: RankingRecipe) -> tuple[Collection, list[Scored] | None] | None:
    """The collection that chooses the best model; for a reranker with what BM25 ranks first."""
    data = recipe.data
    if data.validation is None:
        return None
    collection = read_collection(data.validation, data.validation_split, skip_bad=recipe.skip_bad)
    if recipe.task != "rerank":
        return collection, None
    return collection, evaluate_ranker(collection, Bm25(), 100)[0]


def _claim(recipe: RankingRecipe) -> None:
    """Make the folder of a run ready, or see that it is the one of this recipe.

    Raises:
        ConfigError: the folder holds a run of another recipe, or things that are not a run's.
    """
    folder, path = recipe.output, recipe.output / "recipe.toml"
    settle(folder)
    if path.exists():
        old = toml.load(RankingRecipe, path)
        for name in RankingRecipe.model_fields:
            if name not in ("output", "machine") and getattr(old, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{folder} holds a run whose {name} differs from this recipe; choose another output, remove it, or "
                    "go on with the recipe.toml in it."
                )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run; choose another output.")
    with replaced_file(path) as partial:
        partial.write_text(toml.dump(recipe), encoding="utf-8")


def _write(recipe: RankingRecipe, best: RankerTraining, runs: Sequence[RankerTraining], examples: int) -> None:
    """The model and its report, which is written last: a run with one is complete."""
    folder = best.best_folder()
    model = best.model.eval() if folder is None else _KINDS[recipe.task].from_pretrained(folder)
    model.save_pretrained(recipe.output, best.model.tokenizer_source)
    report = {
        "task": recipe.task,
        "model": recipe.model,
        "loss": best.loss.name,
        "examples": examples,
        "seeds": [
            {
                "seed": run.seed,
                "steps": run.progress.step,
                "tokens": run.progress.tokens,
                "seconds": round(run.progress.seconds, 1),
                "best_step": run.progress.best_step,
                "validation_ndcg_at_10": run.progress.best,
                "curve": run.metrics.read(),
            }
            for run in runs
        ],
        "best_seed": best.seed,
    }
    with replaced_file(recipe.output / _REPORT) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
