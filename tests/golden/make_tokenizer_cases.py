#!/usr/bin/env python3
"""Makes tests/golden/tokenizer_smollm.jsonl: texts and the ids that llama.cpp gives them.

    pip install llama-cpp-python
    python3 tests/golden/make_tokenizer_cases.py MODEL.gguf > tests/golden/tokenizer_smollm.jsonl

One JSON array a line: [text, parse_special, ids]. Texts are our own or drawn from a seeded generator.
"""
import json
import random
import sys

from llama_cpp import Llama

PROSE = [
    "", " ", "a", "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said it's what we'd've done; you'll see, they're late. DON'T SHOUT, I'LL HEAR.",
    "It's 'quoted' and 's alone, 'S too, 'res 'llama 'd",
    "In the beginning the file was without form, and void; and zeros were upon the face of the disk.",
    "naïve café, Straße, Ærøskøbing, smörgåsbord, pâté en croûte", "Don’t use “smart” quotes — or do…",
    "An e-mail: someone@example.org; a URL: https://example.org/a_b?c=d&e=%20f#g", "etc...   and so on .... end",
]
CODE = [
    "int main(void) {\n    return printf(\"%d\\n\", 0x1F) < 0;\n}\n", "def f(x):\n\tif x is None:\n\t\treturn []\n\treturn [y**2 for y in x]\n",
    "for(;;){i+=1;}//done", "a->b.c[d]=~e^f&&!g||h;", "<div class=\"x\">&nbsp;</div>\r\n<!-- c -->", "SELECT * FROM t WHERE a>=10 AND b<>'x';",
    "#include <stdio.h>\n\n\n\nstatic const char *const s[] = {\"a\", \"b\"};", "x = {\n  'k': [1, 2.5e-3],\n  \"z\": null\n}", "$ ls -la | grep -v '^d' > /dev/null 2>&1",
    "                deeply indented\n        less\n    little\nnone",
]
DIGITS = [
    "0", "12", "1234567890", "3.14159", "1,000,000", "year 2024, 7 days", "  7", " 7 ", "a1b22c333", "1st 2nd 3rd", "-5 +5 5-5", "0x7fff", "12:34:56",
    "²³¹ ½ Ⅷ ٣٤٥ १२३ １２３", "x   42   y", "\n7\n\n8", "\U0001d7ce\U0001d7d9", "\U0001d2c0 \U00011f50", "99 bottles", "v1.2.3-rc4",
]
SCRIPTS = [
    "你好，世界！今天天气很好。", "日本語のテキストとカタカナ、漢字。", "한국어 문장입니다.", "Привет, мир! Как дела?", "Γειά σου Κόσμε", "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "ქართული ენა", "Tiếng Việt có dấu", "e\u0301 combining a\u0308\u0323", "ﬁ ligature, ℃ ™ ©", "\U00020000\U0002a6d6 rare Han", "ᚠᚢᚦ runes", "\U00010330 Gothic",
]
EMOJI = [
    "😀", "I ❤️ it 😂😂", "👨‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "👍🏽 ok", "a😀b 😀 c", "🤷‍♀️", "☃ ★ → ∑ √ ≠", "🧪🧬🦠", "\U0001fae8",
]
SPACES = [
    "  ", "   ", "    a", "a ", "a  ", "a   b", "\n", "\n\n", "\n\n\n", " \n ", "a\n\nb", "a \n b", "\t", "\t\ta", "a\tb", "\r\n\r\n", "a\r\nb", "a\u00a0b", "a \u00a0 b",
    "\u3000全角", "a\u2003 b", "a\u2028b\u2029", "\u0085x", "a\u180eb \u180e c", "\u200bzero\u200bwidth", "\ufeffbom", "x\v\fy", "  .", "   1", "  \n  1", " ' s", "\n's", "   's",
]
CONTROL = ["\x00", "a\x00b", "\x01\x02\x03", "\x7f", "\x1b[31mred\x1b[0m", "a\x08b", "a\x04b", "\x13\x14\x16\x1d", "\x1c\x1e\x1f"]
SPECIAL = [
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b", " <|im_end|> ", "<|im_end|><|im_end|>", "<|im_start", "|im_end|>", "<<|im_end|>>",
    "<reponame>x<repo_name>y", "<|im_<|im_end|>end|>", "<file_sep><gh_stars>100", "<|IM_END|>", "< |im_end|>", "<empty_output>\n<jupyter_code>import os",
]
POOLS = [
    list("abcde ABC"), list("ab 12\n.'"), [" ", "\n", "\t", "a", "1", "."], ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "x", " ", "'"],
    [chr(c) for c in range(0x4E00, 0x4E80)] + ["，", " "], [chr(c) for c in range(0x400, 0x460)] + [" "], [chr(c) for c in range(0x20, 0x7F)],
    [chr(c) for c in range(0x1F600, 0x1F640)] + [" ", "\u200d", "\ufe0f"], [chr(c) for c in range(0xA0, 0x180)] + [" "],
    ["the", " the", "ing", "tion", "er", "un", " in", "pre", "s"], ["  ", "    ", "\n", "x", "return", "(", ")", ";", "= "],
]


def random_text(r):
    pool = r.choice(POOLS)
    return "".join(r.choice(pool) for _ in range(r.randrange(1, 40)))


def random_unicode(r):
    out = []
    while len(out) < r.randrange(1, 12):
        c = r.choice([r.randrange(0x3000), r.randrange(0x10000), r.randrange(0x20000)])
        if not 0xD800 <= c < 0xE000:
            out.append(chr(c))
    return "".join(out)


def main():
    model = Llama(sys.argv[1], vocab_only=True, verbose=False)
    r = random.Random(1)
    texts = PROSE + CODE + DIGITS + SCRIPTS + EMOJI + SPACES + CONTROL + SPECIAL
    texts += [random_text(r) for _ in range(170)] + [random_unicode(r) for _ in range(60)]
    texts += ["a" * 400, " " * 300 + "x", "\n" * 200, "ab" * 150, "中" * 100, "!" * 333, "é" * 200]
    for text in texts:
        ids = model.tokenize(text.encode(), add_bos=False, special=False) if text else []
        print(json.dumps([text, False, ids], separators=(",", ":")))
    for text in SPECIAL:
        print(json.dumps([text, True, model.tokenize(text.encode(), add_bos=False, special=True)], separators=(",", ":")))


if __name__ == "__main__":
    main()
