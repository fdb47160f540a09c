"""How fast does rerankkit rank, and take a training step, on this GPU, beside the usual way?

    python benchmarks/gpu_engine.py ranking
    python benchmarks/gpu_engine.py training
    TRITON_INTERPRET=1 python benchmarks/gpu_engine.py ranking --dry-run     # small sizes on a CPU, to see that it runs

The models are random and have the shapes of published ones; texts are random words. The usual way: for a cross-encoder
sentence-transformers' CrossEncoder; for a language model what its LogitScore does, the last position's logits of
batches padded on the left; for late interaction padded batches and one einsum. All begin with the texts. Scores are
compared before a way is timed: how far they are from the first one's, as a part of their size or spread.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_measuring import Results, about, arguments, waited, warm_up
from gpu_models import causal, encoder_folder, groups
from gpu_visit import source_hash

from rerankkit import Group, Reranker, load_recipe
from rerankkit.batches import training_batch
from rerankkit.engine import Parts
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Ask
from rerankkit.recipe import build
from rerankkit.sampling import KnownPositives
from rerankkit.settings import Engine
from rerankkit.training.trainer import TrainingModule

HALF, FP32 = torch.bfloat16, torch.float32
BATCH = 32
COLUMNS = ["seconds", "per_second", "memory_mb", "parity", "apart", "tokens", "padding", "passes"]
FAR = 0.5
"""Scores in half precision of random models are further apart than those of trained ones, and still tell a mistake."""
Scores = list[list[float]]


def language_model(recipe: str, backbone: Any, batch_tokens: int) -> Reranker:
    """A shipped recipe on a random model."""
    uncut = {"model.collator.max_length": 2048, "model.collator.document_max_length": None}
    uncut |= {"model.collator.query_max_length": None, "model.backbone.name": f"Qwen/{backbone.name}"}
    loaded = load_recipe(recipe, uncut)  # the name alone: nothing of that repository is read
    parts = (build(loaded, f"model.{name}") for name in ("formatter", "collator", "head", "strategy"))
    formatter, collator, head, strategy = parts
    settings = Engine(batch_tokens=batch_tokens, prefix_tokens=max(16384, batch_tokens))
    return Reranker(Parts(formatter, collator, backbone, head, strategy), settings).to(DEVICE)


def in_order(of: Reranker, given: Sequence[Group]) -> Scores:
    """Scores in the order of the documents."""
    return [[found.score for found in sorted(r, key=lambda f: f.index)] for r in of.rank_groups(given)]


def prompts(parts: Parts, given: Sequence[Group]) -> list[str]:
    asks = [Ask(group, (position,)) for group in given for position in range(len(group.docs))]
    pieces = [parts.formatter.format(ask, parts.backbone.tokenizer).pieces for ask in asks]
    return ["".join(piece.text for piece in some) for some in pieces]


def last_logits(of: Reranker, given: Sequence[Group]) -> Scores:
    """Batches padded on the left, sorted by length, the whole vocabulary at the last position, two of it looked at."""
    parts, tokens = of.parts, of.parts.backbone.tokenizer
    tokens.padding_side = "left"
    yes, no = (tokens(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
    texts = prompts(parts, given)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    flat = [0.0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            batch = tokens([texts[i] for i in some], return_tensors="pt", padding=True, add_special_tokens=False)
            batch = batch.to(DEVICE)
            logits = parts.backbone.module(**batch, logits_to_keep=1, use_cache=False).logits[:, -1].float()
            for i, score in zip(some, (logits[:, yes] - logits[:, no]).tolist(), strict=True):
                flat[i] = score
    scores = iter(flat)
    return [[next(scores) for _ in group.docs] for group in given]


def compare(results: Results, title: str, items: int, ways: dict[str, tuple[Callable[[], Any], Any]]) -> None:
    """Each way's time, its scores beside the first one's, and what the last call cost the reranker beside it."""
    first: list[Any] = []

    def measure(way: Callable[[], Any], of: Reranker | None) -> dict[str, Any]:
        found = way()
        first.append(found)
        took = waited(way, 1 if DRY else 3)
        row = {"seconds": took.gpu, "per_second": items / took.gpu, "memory_mb": took.memory / 1e6}
        if found is not None:
            row |= agreement(found, first[0])
        if of is not None:
            row |= {"tokens": of.costs.tokens, "padding": of.costs.padding, "passes": of.costs.passes}
        return row

    for name, (way, of) in ways.items():
        results.row(title, name, partial(measure, way, of))


def agreement(found: Scores, wanted: Scores) -> dict[str, Any]:
    one, other = torch.tensor(sum(found, [])), torch.tensor(sum(wanted, []))
    # random models score all texts nearly alike, so half precision is measured by the scores' size too
    apart = float((one - other).abs().max() / torch.maximum(other.max() - other.min(), other.abs().max()))
    return {"parity": "ok" if apart < FAR else "FAILED", "apart": apart}


def yes_no(results: Results, model: str, documents: int) -> None:
    given = groups(1, documents, *LENGTHS)
    backbone = causal(model, DEVICE, HALF, DRY)
    ours = {size: language_model("llm_pointwise", backbone, size) for size in SIZES}
    ways: dict[str, Any] = {"last logits, batches of 32": (partial(last_logits, ours[SIZES[0]], given), None)}
    compare(results, f"yes/no, {model}, bfloat16, 1 x {documents}", documents, ways | in_batches(ours, in_order, given))
    if model == "Qwen3-0.6B":
        others(results, model, backbone)
        backbone.module.float()
        of = language_model("llm_pointwise", backbone, SIZES[0])
        title = f"yes/no, {model}, float32 as recipes have it, 1 x {documents}"
        compare(results, title, documents, {"rerankkit": (partial(in_order, of, given), of)})


def in_batches(ours: dict[int, Reranker], call: Callable[[Reranker, Any], Any], given: Any) -> dict[str, Any]:
    return {f"rerankkit, batches of {size} tokens": (partial(call, of, given), of) for size, of in ours.items()}


def others(results: Results, model: str, backbone: Any) -> None:
    """What has no counterpart elsewhere: query likelihood, and sorts of many queries together."""
    one = groups(1, 6 if DRY else 100, *LENGTHS)
    many = groups(2, 6, *LENGTHS) if DRY else groups(10, 12, *LENGTHS)

    def rank(of: Reranker, given: Sequence[Group]) -> None:
        of.rank_groups(given)

    for recipe, given in (("query_likelihood", one), ("setwise", many), ("pairwise", many)):
        of = language_model(recipe, backbone, SIZES[-1])
        documents = sum(len(group.docs) for group in given)
        title = f"{recipe}, {model}, bfloat16, {len(given)} x {len(given[0].docs)}"
        compare(results, title, documents, {"rerankkit": (partial(rank, of, given), of)})


def cross_encoder(results: Results, folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    given = groups(2, 6, *LENGTHS) if DRY else groups(10, 100, *LENGTHS)
    pairs = [[group.query, document] for group in given for document in group.docs]
    for dtype, name in ((HALF, "bf16"), (FP32, "fp32")):
        theirs = CrossEncoder(
            str(folder), activation_fn=torch.nn.Identity(), device=DEVICE, model_kwargs={"dtype": dtype}
        )
        bare = {"model.backbone.name": str(folder), "model.backbone.dtype": name}
        ours = {size: Reranker.from_recipe("cross_encoder", {**bare, "engine.batch_tokens": size}) for size in SIZES}

        def predict(of: Any = theirs) -> Scores:
            return [of.predict(pairs, batch_size=BATCH, show_progress_bar=False).tolist()]

        ways: dict[str, Any] = {"sentence-transformers": (predict, None)}
        ways |= in_batches(ours, lambda of, some: [of.compute_score(some)], pairs)
        compare(results, f"cross-encoder, ModernBERT-150M, {name}, {len(pairs)} pairs", len(pairs), ways)


def late_interaction(folder: Path, dtype: str, size: int) -> Reranker:
    changes = {"model.backbone.name": str(folder), "model.backbone.dtype": dtype, "engine.batch_tokens": size}
    torch.manual_seed(0)
    of = Reranker.from_recipe("colbert", {**changes, "model.head.dim": 16 if DRY else 128})
    of.untrained = False  # speed does not depend on what the projection has learned
    return of


def colbert(results: Results, folder: Path) -> None:
    given = groups(2, 6, *LENGTHS) if DRY else groups(4, 100, *LENGTHS)
    documents = sum(len(group.docs) for group in given)
    for dtype in ("bf16", "fp32"):
        ours = {size: late_interaction(folder, dtype, size) for size in SIZES}
        ways: dict[str, Any] = {"vectors, padded, and einsum": (partial(einsum_scores, ours[SIZES[0]], given), None)}
        title = f"late interaction, ModernBERT-150M, {dtype}, {len(given)} x {len(given[0].docs)}"
        compare(results, title, documents, ways | in_batches(ours, in_order, given))


def einsum_scores(of: Reranker, given: Sequence[Group]) -> Scores:
    """Each text's vectors on the device, padded, and one einsum a query."""
    found = []
    for group in given:
        query = of.encode([group.query], "query")[0].to(DEVICE)
        vectors = [one.to(DEVICE) for one in of.encode(group.docs)]
        d = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)  # [documents, tokens, dim]
        lengths = torch.tensor([len(one) for one in vectors], device=DEVICE)
        mask = torch.arange(d.shape[1], device=DEVICE) < lengths.unsqueeze(1)
        similar = torch.einsum("sx,ntx->nst", query, d).masked_fill(~mask.unsqueeze(1), -torch.inf)
        found.append(similar.amax(-1).sum(-1).tolist())
    return found


def steps(results: Results, encoder: Path, classifier: Path) -> None:
    """Forward and backward of some groups; weights in float32, computed under bfloat16's autocast."""
    given = groups(2, 3, *LENGTHS, labelled=True) if DRY else groups(4, 8, *LENGTHS, labelled=True)
    documents = sum(len(group.docs) for group in given)
    nobody = KnownPositives(frozenset(), frozenset())
    for title, made, plain in (
        ("yes/no, Qwen3-0.6B", lambda: language_model("llm_pointwise", causal("Qwen3-0.6B", DEVICE, FP32, DRY), 2048),
         full_logits),
        ("cross-encoder, ModernBERT-150M",
         lambda: Reranker.from_recipe("cross_encoder", {"model.backbone.name": str(classifier)}),
         sentence_transformers_way),
        ("late interaction in the batch, ModernBERT-150M", lambda: late_interaction(encoder, "fp32", 2048), None),
    ):  # fmt: skip
        of, ways = made(), dict[str, Any]()
        if plain is not None:
            ways["the usual way"] = (partial(take_step, of, partial(plain, of, given)), None)
        module = TrainingModule(of.parts, SoftmaxCrossEntropy(), in_batch=plain is None).train()
        batch = training_batch(of.parts, given, None if plain else lambda group: nobody).to(DEVICE)
        ways["rerankkit"] = (partial(take_step, of, partial(loss_of, module, batch)), None)
        compare(results, f"training step, {title}, {len(given)} groups of {len(given[0].docs)}", documents, ways)


def loss_of(module: TrainingModule, batch: Any) -> torch.Tensor:
    return module(batch)["loss"]


def take_step(of: Reranker, loss: Callable[[], torch.Tensor]) -> Scores:
    """The loss, beside a zero that it is compared with; the gradients are dropped with the next step."""
    for part in (of.parts.backbone, of.parts.head):
        if part.module is not None:
            part.module.zero_grad(set_to_none=True)
    with torch.autocast(DEVICE, torch.bfloat16):
        value = loss()
    value.backward()
    return [[value.item(), 0.0]]


def full_logits(of: Reranker, given: Sequence[Group]) -> torch.Tensor:
    """All prompts padded in one batch, and the logits of every position."""
    tokens, model = of.parts.backbone.tokenizer, of.parts.backbone.module
    tokens.padding_side = "left"
    texts = prompts(of.parts, given)
    batch = tokens(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(DEVICE)
    yes, no = (tokens(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
    logits = model(**batch, use_cache=False).logits[:, -1].float()
    return cross_entropy(logits[:, yes] - logits[:, no], given)


def sentence_transformers_way(of: Reranker, given: Sequence[Group]) -> torch.Tensor:
    """As its trainer for cross-encoders: pairs padded in one batch, the classifier's logits."""
    pairs = [(group.query, document) for group in given for document in group.docs]
    batch = of.parts.backbone.tokenizer(pairs, return_tensors="pt", padding=True, truncation=True).to(DEVICE)
    return cross_entropy(of.parts.backbone.module(**batch).logits[:, 0].float(), given)


def cross_entropy(scores: torch.Tensor, given: Sequence[Group]) -> torch.Tensor:
    matrix = scores.view(len(given), -1)
    labels = torch.tensor([group.labels for group in given], device=scores.device)
    return SoftmaxCrossEntropy()(matrix, labels, torch.ones_like(labels, dtype=torch.bool))


def main() -> int:
    transformers.utils.logging.disable_progress_bar()
    global DRY, DEVICE, LENGTHS, SIZES
    given = arguments(__doc__, ("ranking", "training"))
    DRY, DEVICE = given.dry_run, "cpu" if given.dry_run else "cuda"
    if DRY:
        LENGTHS, SIZES = (3, 20), [2048]
    given.out.mkdir(parents=True, exist_ok=True)
    results = Results(given.out / f"gpu-{given.what}.json", about(DRY), source_hash())
    warm_up()
    with tempfile.TemporaryDirectory() as at:
        classifier = encoder_folder("ModernBERT-150M", Path(at) / "classifier", True, DEVICE, DRY)
        encoder = encoder_folder("ModernBERT-150M", Path(at) / "encoder", False, DEVICE, DRY)
        if given.what == "training":
            steps(results, encoder, classifier)
        else:
            yes_no(results, "Qwen3-0.6B", 6 if DRY else 100)
            cross_encoder(results, classifier)
            colbert(results, encoder)
            yes_no(results, "Qwen3-4B", 3 if DRY else 100)
    print(results.table(COLUMNS))
    for row in results.failed():
        print(f"WRONG: {row['title']}, {row['way']}: {row.get('error', row.get('apart'))}")
    return int(any(row["way"].startswith("rerankkit") for row in results.failed()))


DRY, DEVICE, LENGTHS = False, "cuda", (20, 280)
SIZES = [2048, 8192, 32_768]
"""Tokens in a batch: the default, and what a GPU may be better with."""

if __name__ == "__main__":
    sys.exit(main())
