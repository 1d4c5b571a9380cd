#!/usr/bin/env python3
"""Makes texts of chat and of questions for experiments/kvlab_best_texts.yaml from public data sets that one has on disk.

usage: make_texts.py OUT --samsum samsum.jsonl --gsm8k train.jsonl --xquad xquad.en.json [--texts 8]

chat_N.txt: a conversation in ChatML. The user pastes a messenger dialogue to be summarised (SAMSum as in LongBench: `context` holds pairs of
"Dialogue:" and "Summary:") and asks word problems (GSM8K), in turn; the assistant's turns are the data sets' answers.
questions_N.txt: the paragraphs of several Wikipedia articles (XQuAD), then their questions with answers, the first of every paragraph before the
second ones, so that a question asks for what lies thousands of tokens back.

No text shares anything with another one. Nothing is drawn at random: the same files give the same texts.
"""
import argparse
import json
import pathlib
import re

CHAT_BYTES = 22_000  # well over 3,969 tokens
PARAGRAPH_BYTES = 13_500  # about 3,000 tokens; what follows up to token 3,968 are questions


def take(items, *paths):
    for x in items:
        return x
    raise SystemExit(f"make_texts.py: {' and '.join(paths)} do not hold that many texts; ask for fewer with --texts")


def dialogues(path):
    seen = {}
    for line in open(path, encoding="utf-8"):
        for d, s in re.findall(r"Dialogue: (.*?)\nSummary: (.*?)(?=\nDialogue: |\Z)", json.loads(line)["context"], re.S):
            seen.setdefault(d.strip(), s.strip())
    return [("Please summarise this chat in a sentence or two.\n\n" + d, s) for d, s in seen.items()]


def problems(path):
    for line in open(path, encoding="utf-8"):
        r = json.loads(line)
        yield r["question"], re.sub(r"<<.*?>>", "", r["answer"]).replace("#### ", "The answer is ") + "."


def chats(samsum, gsm8k, n):
    turns = iter([t for pair in zip(dialogues(samsum), problems(gsm8k)) for t in pair])
    for _ in range(n):
        text = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
        while len(text) < CHAT_BYTES:
            user, assistant = take(turns, samsum, gsm8k)
            text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"
        yield text


def questions(xquad, n):
    articles = iter(json.load(open(xquad, encoding="utf-8"))["data"])
    for _ in range(n):
        paragraphs = []
        while sum(len(p["context"]) for p in paragraphs) < PARAGRAPH_BYTES - 1_500:
            paragraphs += take(articles, xquad)["paragraphs"]
        text = "".join(p["context"] + "\n\n" for p in paragraphs)
        for k in range(max(len(p["qas"]) for p in paragraphs)):
            for p in paragraphs:
                if k < len(p["qas"]):
                    text += f"Question: {p['qas'][k]['question']}\nAnswer: {p['qas'][k]['answers'][0]['text']}\n\n"
        yield text


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--samsum", required=True)
    p.add_argument("--gsm8k", required=True)
    p.add_argument("--xquad", required=True)
    p.add_argument("--texts", type=int, default=8)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for kind, texts in (("chat", chats(a.samsum, a.gsm8k, a.texts)), ("questions", questions(a.xquad, a.texts))):
        n = 0
        for n, text in enumerate(texts, 1):
            (a.out / f"{kind}_{n}.txt").write_text(text, encoding="utf-8")
        print(f"{n} texts {a.out}/{kind}_*.txt")


main()
