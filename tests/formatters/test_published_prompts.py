"""Prompts of published rerankers, to the letter: what stands here is what their authors' code gives the model."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from rerankkit.formatters.conversation import Conversation
from rerankkit.formatters.documents import Documents
from rerankkit.formatters.pointwise import Pointwise
from rerankkit.formatters.query_generation import QueryGeneration
from rerankkit.protocols import Ask, Group, Prompt
from rerankkit.recipe import build, read, recipes_folder

GROUP = Group("what is {x}", ["the first", "a second one", "third: [ok]\n", "4"])
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ ' USER: ' + "
    "m.content.strip() }}{% else %}{{ ' ASSISTANT: ' + m.content.strip() + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
THOUGHT = "<|im_start|>assistant\n<think>\n\n</think>\n\n"  # how the tiny tokenizer's template opens the model's turn


def text(prompt: Prompt) -> str:
    return "".join(piece.text for piece in prompt.pieces)


def prompt(formatter: Any, *docs: int, chat: str | None = tiny.CHAT) -> Prompt:
    return formatter.format(Ask(GROUP, docs), tiny.tokenizer(chat=chat))


def of_recipe(name: str) -> Any:
    return build(read(recipes_folder() / f"{name}.cfg"), "model.formatter")


PAIR = """Given a query "what is {x}", which of the following two passages is more relevant to the query?

Passage A: "a second one"

Passage B: "the first"

Output Passage A or Passage B:"""
SET = """Given a query "what is {x}", which of the following passages is the most relevant one to the query?

Passage A: "4"

Passage B: "the first"

Passage C: "third: [ok]
"

Output only the passage label of the most relevant passage:"""


def test_query_likelihood() -> None:
    published = "Passage: a second one\nPlease write a question based on this passage."
    chat = prompt(of_recipe("query_likelihood"), 1)
    assert text(chat) == f"<|im_start|>user\n{published}<|im_end|>\n{THOUGHT}what is {{x}}"
    assert text(prompt(QueryGeneration(), 1)) == f"{published}\nwhat is {{x}}"
    split = prompt(of_recipe("query_likelihood_t5"), 1)
    assert split.answer is not None
    assert "".join(piece.text for piece in split.pieces[: split.answer]) == published
    assert [(piece.text, piece.scored) for piece in split.pieces[split.answer :]] == [("what is {x}", 0)]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "llm_rankers_yes_no",
            "Passage: a second one\nQuery: what is {x}\nDoes the passage answer the query? Answer 'Yes' or 'No'",
        ),
        ("monot5", "Query: what is {x} Document: a second one Relevant:"),
        (
            "llm_yes_logit",
            "A: what is {x}\nB: a second one\nGiven a query A and a passage B, determine whether the passage contains "
            "an answer to the query by providing a prediction of either 'Yes' or 'No'.",
        ),
        (
            "llm_relevant_body",
            "A: what is {x}\nB: a second one\nGiven a query with a relevant body, determine whether the document is "
            "pertinent to the query by providing a prediction of either 'Yes' or 'No'.",
        ),
    ],
)
def test_pointwise(recipe: str, expected: str) -> None:
    made = prompt(of_recipe(recipe), 1)
    assert text(made) == expected
    assert made.answer is None and made.add_special_tokens


def test_duot5() -> None:
    made = prompt(of_recipe("duot5"), 1, 0)
    assert text(made) == "Query: what is {x} Document0: a second one Document1: the first Relevant:"
    assert made.choices == ("true", "false") and made.answer is None


def test_pairwise() -> None:
    made = prompt(of_recipe("pairwise"), 1, 0)
    assert text(made) == f"<|im_start|>user\n{PAIR}<|im_end|>\n{THOUGHT} Passage:"
    assert made.labels == ("A", "B") and made.choices == (" A", " B")
    t5 = prompt(of_recipe("pairwise_t5"), 1, 0)
    assert t5.answer == len(t5.pieces) - 1
    assert (text(t5), t5.pieces[-1].text) == (f"{PAIR} Passage", " Passage")


def test_pairwise_of_chat_models_behind_an_interface() -> None:
    system = (
        "You are RankGPT, an intelligent assistant specialized in selecting the most relevant passage from a pair of "
        "passages based on their relevance to the query."
    )
    template = (
        'Given a query "{query}", which of the following two passages is more relevant to the query?\n        \n'
        "{documents}\n\nOutput Passage A or Passage B:"
    )
    made = prompt(Documents(template, chat=True, system=system), 1, 0)
    turn = PAIR.replace("query?\n\n", "query?\n        \n")
    assert text(made) == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{turn}<|im_end|>\n{THOUGHT}"


def test_setwise_and_listwise_by_likelihood() -> None:
    for recipe in ("setwise", "listwise_likelihood", "setwise_generation"):
        made = prompt(of_recipe(recipe), 3, 0, 2)
        assert text(made) == f"<|im_start|>user\n{SET}<|im_end|>\n{THOUGHT} Passage:"
        assert made.labels == ("A", "B", "C")
        assert made.choices == (() if recipe == "setwise_generation" else (" A", " B", " C"))
    assert text(prompt(Documents(), 3, 0, 2)) == SET
    for recipe in ("setwise_t5", "listwise_likelihood_t5"):
        t5 = prompt(of_recipe(recipe), 3, 0, 2)
        assert t5.answer == len(t5.pieces) - 1 and text(t5) == f"{SET} Passage"


def test_setwise_of_chat_models_behind_an_interface() -> None:
    system = (
        "You are RankGPT, an intelligent assistant specialized in selecting the most relevant passage from a pool of "
        "passages based on their relevance to the query."
    )
    made = prompt(Documents(Documents().template[:-1] + ".", chat=True, system=system), 3, 0, 2)
    turn = SET.removesuffix(":") + "."
    assert text(made) == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{turn}<|im_end|>\n{THOUGHT}"


def test_listwise_in_one_text() -> None:
    made = prompt(of_recipe("listwise_t5"), 1, 3, 0)
    assert text(made) == (
        "This is RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.\n\n"
        "The following are 3 passages, each indicated by number identifier []. I can rank them based on their "
        "relevance to query: what is {x}\n\n[1] a second one\n\n[2] 4\n\n[3] the first\n\nThe search query is: what is "
        "{x}I will "
        "rank the 3 passages above based on their relevance to the search query. The passages will be listed in "
        "descending order using identifiers, and the most relevant passages should be listed first, and the output "
        "format should be [] > [] > etc, e.g., [1] > [2] > etc.\n\nThe ranking results of the 3 passages (only "
        "identifiers) is:"
    )
    assert made.labels == ("1", "2", "3")


def test_listwise_as_a_conversation() -> None:
    made = prompt(of_recipe("listwise"), 1, 3)
    assert text(made) == (
        "<|im_start|>system\nYou are RankGPT, an intelligent assistant that can rank passages based on their relevancy "
        "to the query.<|im_end|>\n"
        "<|im_start|>user\nI will provide you with 2 passages, each indicated by number identifier []. \nRank the "
        "passages based on their relevance to query: what is {x}.<|im_end|>\n"
        "<|im_start|>assistant\nOkay, please provide the passages.<|im_end|>\n"
        "<|im_start|>user\n[1] a second one<|im_end|>\n"
        "<|im_start|>assistant\nReceived passage [1].<|im_end|>\n"
        "<|im_start|>user\n[2] 4<|im_end|>\n"
        "<|im_start|>assistant\nReceived passage [2].<|im_end|>\n"
        "<|im_start|>user\nSearch Query: what is {x}. \nRank the 2 passages above based on their relevance to the "
        "search query. The passages should be listed in descending order using identifiers. The most relevant passages "
        "should be listed first. The output format should be [] > [], e.g., [1] > [2]. Only response the ranking "
        "results, do not say any word or explain.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert made.labels == ("1", "2") and not made.add_special_tokens


def test_a_users_blanks_outlast_a_chat_template_that_trims() -> None:
    made = text(prompt(Conversation(system="Rank."), 2, 0, chat=VICUNA))
    assert made.startswith("Rank. USER: I will provide you with 2 passages,")
    assert (
        " USER: [1] third: [ok]\n ASSISTANT: Received passage [1].</s> USER: [2] the first ASSISTANT: Received passage "
        "[2].</s> USER: Search Query: what is {x}. \nRank the 2 passages"
    ) in made
    assert made.endswith("do not say any word or explain. ASSISTANT:")


def test_vicuna() -> None:
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions."
    )
    formatter = Documents(of_recipe("pairwise").template, chat=True, system=system, answer_prefix=" Passage:")
    assert text(prompt(formatter, 1, 0, chat=VICUNA)) == f"{system} USER: {PAIR} ASSISTANT: Passage:"


def test_rankzephyr() -> None:
    turn = (
        "I will provide you with 3 passages, each indicated by a numerical identifier []. Rank the passages based on "
        "their relevance to the search query: what is {x}.\n[1] a second one\n[2] the first\n[3] 4\nSearch Query: what "
        "is {x}.\nRank the 3 passages above based on their relevance to the search query. All the passages should be "
        "included and listed using identifiers, in descending order of relevance. The output format should be [] > [], "
        "e.g., [2] > [1], Only respond with the ranking results, do not say any word or explain."
    )
    system = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
    made = prompt(of_recipe("rankzephyr"), 1, 0, 3)
    assert text(made) == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{turn}<|im_end|>\n{THOUGHT}"
    assert made.answer is None and made.choices == ()


R1_SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>."
)
R1 = (
    'Given the query: "what is {x}", which of the following documents is most relevant?\n[1] a second one\n[2] the '
    "first\nAfter completing the reasoning process, please provide only the label of the most relevant document to the "
    "query, enclosed in square brackets, within the answer tags. For example, if the third document is the most "
    "relevant, the answer should be: <think> reasoning process here </think> <answer>[3]</answer>."
)
SFT_SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "provides the user with the answer enclosed within <answer> </answer> tags, i.e., <answer> answer here </answer>."
)
SFT = (
    'Given the query: "what is {x}", which of the following documents is most relevant?\n[1] a second one\n[2] the '
    "first\nPlease provide only the label of the most relevant document to the query, enclosed in square brackets, "
    "within the answer tags. For example, if the third document is the most relevant, the answer should be: "
    "<answer>[3]</answer>."
)
V02_SYSTEM = (
    "You are RankLLM, an intelligent assistant capable of evaluating the relevancy of passages to a given query."
)
V02 = """You will be presented with a query, and a set of documents.

Your task consists of the following step:

1. Analyze the query: Carefully read the query and identify the core problem or question being asked.

2. Analyze the documents: Thoroughly examine each document and briefly explain how each document is relevant or not \
relevant to the query.

3. Find the most relevant document: Based on your analysis, select the most relevant document to the query from the \
set and briefly explain why.

Important: Provide your analysis within the <think> </think> tags and answer only the label of the most relevant \
document, enclosed in square brackets, within the <answer> </answer> tags. For example, if the third document is the \
most relevant, your response should be:
<think> Your analysis here </think>
<answer>[3]</answer>

Here is the query: what is {x}

Here are the documents:
[1]: a second one

[2]: the first"""


@pytest.mark.parametrize(
    ("recipe", "system", "turn"),
    [("rank_r1", R1_SYSTEM, R1), ("setwise_sft", SFT_SYSTEM, SFT), ("rank_r1_v02", V02_SYSTEM, V02)],
)
def test_rank_r1(recipe: str, system: str, turn: str) -> None:
    made = prompt(of_recipe(recipe), 1, 0)
    assert text(made) == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{turn}<|im_end|>\n{THOUGHT}"
    assert made.labels == ("1", "2") and made.choices == () and made.answer is None


def test_prompts_that_are_often_handed_on_without_their_source() -> None:
    assert text(prompt(QueryGeneration("Passage: {document}\nPlease write a question based on this passage."), 3)) == (
        "Passage: 4\nPlease write a question based on this passage.\nwhat is {x}"
    )
    yes_no = "Passage: {document}\nQuery: {query}\nDoes the passage answer the query? Answer 'Yes' or 'No'"
    assert text(prompt(Pointwise(yes_no), 3)) == (
        "Passage: 4\nQuery: what is {x}\nDoes the passage answer the query? Answer 'Yes' or 'No'"
    )
    listwise = (
        "I will provide you with {num} passages, each indicated by number identifier []. \n"
        "Rank the passages based on their relevance to query: {query}."
    )
    one_turn = Documents(listwise + "\n\n{documents}", "[{label}] {document}", labels="numbers")
    assert text(prompt(one_turn, 3, 0)) == (
        "I will provide you with 2 passages, each indicated by number identifier []. \nRank the passages based on "
        "their relevance to query: what is {x}.\n\n[1] 4\n\n[2] the first"
    )
    assert Conversation().opening == listwise
