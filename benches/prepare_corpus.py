#!/usr/bin/env python3
"""Writes preference rows in the shape of raw UltraFeedback, for measurements of `prepare`.

    python3 benches/prepare_corpus.py --rows 64000 --out corpus.jsonl

Lengths follow published UltraFeedback: prompts of 670 characters in the mean, answers of 1,200, both
lognormal; four answers a row, all fields of the published rows, ratings with rationales and a critique
for each answer, so that parsing costs what it costs on real rows (about 15 KB each). Text is drawn
from a vocabulary of some thousand English words with Zipf frequencies, with rare words, numbers, lists,
code and other scripts mixed in, so that tokenizers find about as many tokens a word as in real text.
With --texts FILE..., sentences of those files (JSON lines, pairs or raw rows, plain or gzip) take the
place of the vocabulary.

The bytes depend on --rows, --seed and --texts alone: not on --jobs. Needs numpy.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import re
import sys
import time

import numpy as np

BLOCK = 250  # rows made at once; the seed of a block is (seed, number of the block)

FUNCTION = """the of and to a in is that for it as with on be this are by or from at which have not an can
you your we they their will has but all there if one more also when what how some may other its these
such into than so up out about then them would been should do each any most our between while because
through however both over many only where during often after before like same without within using
under since although another those could must does did here very much even just well first second
who why his her she he my me us no yes still yet per every against around during across toward until
whether several few own rather quite perhaps almost always never sometimes usually therefore thus""".split()

VERBS = """use make help provide include consider create work need find give take know think follow ask
answer explain describe write read learn start begin end stop change improve increase reduce add remove
keep allow require support develop build design test check measure compare choose decide plan manage
control share send receive store collect analyze identify define solve apply train teach study play run
walk move turn open close show present suggest offer select combine connect contain cover carry bring
handle process generate produce return accept reject prefer protect prevent avoid limit extend focus
reflect express discuss mention note observe report review search visit travel cook mix heat cool grow
plant water clean wash paint draw record print order pay buy sell save spend invest borrow lend trade
join attend serve treat cure care listen speak talk call claim argue agree prove assume expect predict
estimate calculate count divide multiply sort filter group merge split link attach insert delete update
load deploy install execute compile debug trace monitor inspect examine evaluate judge rank score rate
happen remain seem appear become exist occur depend belong relate refer lead result differ vary range""".split()

NOUNS = """time year way day thing person world life hand part child place case week company system
program question work government number night point home water room mother area money story fact month
lot right study book eye job word business issue side kind head house service friend father power hour
game line member law car city community name president team minute idea body information back parent
face level office door health art war history party result morning reason research girl guy moment air
teacher force education food model data method language process example value function code user text
list input output file table key type class object string array index node graph tree path rule set
model layer network weight training feature label sample error rate score test answer response prompt
instruction task user assistant sentence paragraph essay article summary title author character plot
scene theme river mountain forest animal plant species climate energy planet star space light sound
color shape size surface material metal paper glass wood stone machine engine vehicle road bridge
building station market price cost product brand customer sale budget bank tax policy law court crime
doctor patient disease treatment drug exercise diet sleep stress brain heart blood muscle skin cell
recipe sugar salt oil flour egg milk cheese bread rice chicken fish meat vegetable fruit sauce soup
family wedding holiday festival culture religion tradition museum music song film camera picture image
theory experiment evidence hypothesis equation formula probability variable average total ratio percent
strategy goal challenge opportunity risk benefit advantage impact effect factor condition situation
environment resource tool device software application website platform internet security password
account email message phone computer screen button menu interface server database query request""".split()

ADJECTIVES = """new good high different large small important long great little own old right big next
early young public bad able human local sure better free strong possible clear recent certain personal
open red difficult available likely short single medical current wrong private past foreign fine common
poor natural significant similar hot dead central happy serious ready simple left physical general
environmental financial blue democratic dark various entire close legal religious cold final main green
nice huge popular traditional cultural specific additional useful effective accurate reliable efficient
relevant helpful detailed complete correct complex direct exact formal global ideal initial internal
logical major mental minor modern normal obvious original positive potential practical previous primary
professional proper quick random rapid real regular safe scientific sensitive separate social special
standard successful suitable technical typical unique usual valid visual wide rich deep fair firm flat""".split()

TAIL = """algorithm bibliography catastrophe chromosome circumference collateral commemorate conscientious
constellation deterioration dichotomy electromagnetic encyclopedia entrepreneurship equilibrium fermentation
fluorescence genealogy hemisphere hieroglyphics idiosyncratic infrastructure juxtaposition kaleidoscope
legislature manuscript metamorphosis miscellaneous neuroscience nomenclature ophthalmology orchestration
parallelogram philanthropy photosynthesis polymorphism precipitation questionnaire reconciliation
rehabilitation renaissance serendipity simultaneous sovereignty stratosphere sustainability thermodynamics
transcendental ubiquitous vaccination ventriloquist whimsical xylophone archaeology biodiversity
cryptography demographics ecosystem filibuster geopolitics hydroelectric immunology jurisprudence""".split()

SYLLABLES = "ka lo mi ren tor va shi bel dra qui nor fen gal hu ist jor len mar oph pel ros sta tun ul wen xan yor zel".split()

ACCENTED = ["café", "naïve", "résumé", "Zürich", "São Paulo", "jalapeño", "façade", "Málaga", "Ångström", "crème brûlée"]
OTHER = ["東京", "你好，世界", "Привет", "здравствуйте", "مرحبا", "नमस्ते", "こんにちは", "한국어", "Ελλάδα", "😀", "👍🏽", "∑ xᵢ²", "→", "≈ 3.14"]

CODE = """def {a}({b}, {c}=None):
    \"\"\"Return the {a} of {b}.\"\"\"
    result = []
    for i, item in enumerate({b}):
        if item is not None and item > {n}:
            result.append(item * {n} + i)
    return sorted(result, key=lambda x: -x)


print({a}([{n}, {m}, 3], {c}={m}))
""", """SELECT {a}, COUNT(*) AS {b}
FROM {c}
WHERE {a} >= {n} AND {b} < {m}
GROUP BY {a}
ORDER BY {b} DESC
LIMIT 10;
""", """#include <iostream>

int main() {{
    int {a} = {n};
    for (int {b} = 0; {b} < {m}; ++{b}) {{
        {a} += {b} % 3;
    }}
    std::cout << "{c}: " << {a} << std::endl;
    return 0;
}}
"""
LANGUAGES = ["python", "sql", "cpp"]

SOURCES = ["evol_instruct", "false_qa", "flan_v2_cot", "flan_v2_flan2021", "flan_v2_niv2", "flan_v2_p3", "sharegpt", "truthful_qa", "ultrachat"]
SHARES = [0.157, 0.037, 0.053, 0.049, 0.128, 0.059, 0.312, 0.013, 0.192]
MODELS = ["alpaca-7b", "bard", "falcon-40b-instruct", "gpt-3.5-turbo", "gpt-4", "llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat", "mpt-30b-chat", "pythia-12b", "starchat", "ultralm-13b", "ultralm-65b", "vicuna-33b", "wizardlm-13b", "wizardlm-70b", "wizardlm-7b"]
PRINCIPLES = ["helpfulness", "honesty", "truthfulness", "verbalized_calibration"]


def vocabulary():
    """English-like words in the order of their frequency, most frequent first."""
    forms = list(dict.fromkeys(FUNCTION))
    content = []
    for verb in VERBS:
        stem = verb[:-1] if verb.endswith("e") else verb
        content += [verb, verb + "s", stem + "ing", stem + "ed"]
    for noun in NOUNS:
        content += [noun, noun[:-1] + "ies" if noun.endswith("y") else noun + "s"]
    for adjective in ADJECTIVES:
        content += [adjective, adjective + "ly", adjective + "ness"]
    content += [f"{noun}'s" for noun in NOUNS[:150]]
    known = set(forms)
    content = list(dict.fromkeys(w for w in content if w not in known))
    np.random.Generator(np.random.PCG64(20240229)).shuffle(content)
    return forms + content + TAIL + [f"{a}-{b}" for a in ADJECTIVES[:20] for b in NOUNS[:20]]


def sentences_of(paths):
    """Sentences of the texts in these files, in order."""

    def texts(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)
        elif isinstance(value, dict):
            for key in ("prompt", "instruction", "chosen", "rejected", "completions", "response", "content"):
                yield from texts(value.get(key))

    found = {}
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as file:
            for line in file:
                for text in texts(json.loads(line)):
                    for sentence in re.findall(r".+?(?:[.!?](?=\s)|\n|$)\s*", text, re.S):
                        if sentence.strip():
                            found[sentence if sentence[-1].isspace() else sentence + " "] = None
    return list(found)


class Maker:
    """Makes blocks of rows; the same block is the same everywhere."""

    def __init__(self, seed, sentences):
        self.seed = seed
        self.sentences = np.array(sentences, dtype=object) if sentences else None
        if sentences:
            self.mean_piece = sum(map(len, sentences)) / len(sentences)
            return
        words = vocabulary()
        weights = 1.0 / (np.arange(len(words)) + 2.7) ** 1.02
        self.size = len(words)
        # Word numbers, each as often as its frequency says; drawing is a look-up.
        self.table = np.repeat(np.arange(self.size), np.maximum(1, np.round(weights / weights.sum() * 1_000_000)).astype(int))
        # Five ways to write a word: in a sentence, before a comma, first, last, last of a paragraph.
        plain = [" " + w for w in words]
        comma = [" " + w + "," for w in words]
        first = [" " + w[0].upper() + w[1:] for w in words]
        last = [" " + w + "." for w in words]
        closing = [" " + w + ".\n\n" for w in words]
        self.forms = np.array(plain + comma + first + last + closing, dtype=object)
        self.mean_piece = float(np.mean(np.array([len(p) for p in plain])[self.table])) + 0.1

    def block(self, number, rows):
        """JSON lines of so many rows. All draws are made for the whole block, which is what makes it quick."""
        rng = np.random.Generator(np.random.PCG64([self.seed, number]))
        prompts = self.texts(rng, np.minimum(rng.lognormal(5.95, 1.0, rows), 6300.0))
        answers = self.texts(rng, np.minimum(rng.lognormal(6.79, 0.76, 4 * rows), 5500.0))
        # Nothing reads these but the parser: a supply for the block will do.
        critiques = self.texts(rng, rng.lognormal(6.5, 0.35, 64))
        rationales = self.texts(rng, rng.lognormal(5.2, 0.4, 256))
        special = rng.random(5 * rows).tolist()
        prompts = [self.decorated(rng, text, chance) for text, chance in zip(prompts, special)]
        answers = [self.decorated(rng, text, chance) for text, chance in zip(answers, special[rows:])]
        rated = np.clip(rng.normal(3.6, 1.1, (4 * rows, 4)).round(), 1, 5).astype(int)
        overall = np.clip(rated.mean(axis=1) * 2 + rng.normal(0, 0.8, 4 * rows), 1, 10).tolist()
        ratings, means = rated.tolist(), rated.mean(axis=1).tolist()
        models = np.sort(rng.permuted(np.tile(np.arange(len(MODELS)), (rows, 1)), axis=1)[:, :4], axis=1).tolist()
        sources = rng.choice(len(SOURCES), rows, p=np.array(SHARES) / sum(SHARES)).tolist()
        picks = rng.integers(0, len(rationales), (4 * rows, 6)).tolist()
        kinds = rng.integers(0, 1 << 16, 4 * rows).tolist()
        unrated = (rng.random(4 * rows) < 0.03).tolist()

        def completion(i, model):
            why = [rationales[k] for k in picks[i]]
            rating = [str(r) for r in ratings[i]]
            kind, principle = str(1 + kinds[i] % 3), PRINCIPLES[kinds[i] % len(PRINCIPLES)]
            honesty = "N/A" if unrated[i] else rating[1]
            return {
                "annotations": {
                    "instruction_following": {"Rating": rating[0], "Rationale": why[0]},
                    "honesty": {"Rating": honesty, "Rationale": why[1]},
                    "truthfulness": {"Type": [kind], "Rationale": why[2], "Rating": rating[2], "Rationale For Rating": why[3]},
                    "helpfulness": {"Type": [kind], "Rationale": why[4], "Rating": rating[3], "Rationale For Rating": why[5]},
                },
                "custom_system_prompt": f"As an AI assistant, your answers should show {principle}. Say what you know, and how sure you are of it.",
                "model": model,
                "principle": principle,
                "response": answers[i],
                "critique": critiques[kinds[i] % len(critiques)],
                "overall_score": round(overall[i] * 2) / 2,
                "fine-grained_score": means[i],
            }

        lines = []
        for i in range(rows):
            names = [MODELS[k] for k in models[i]]
            row = {
                "source": SOURCES[sources[i]],
                "instruction": prompts[i],
                "models": names,
                "completions": [completion(4 * i + k, name) for k, name in enumerate(names)],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
            lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return b"".join(lines)

    def texts(self, rng, lengths):
        """Texts of about so many characters."""
        counts = np.maximum(1, lengths / self.mean_piece).astype(int)
        ends = np.cumsum(counts).tolist()
        pieces = self.pieces(rng, ends[-1])
        return ["".join(pieces[begin:end]).strip() for begin, end in zip([0] + ends, ends)]

    def pieces(self, rng, n):
        if self.sentences is not None:
            return self.sentences[rng.integers(0, len(self.sentences), n)].tolist()
        form = np.zeros(n, dtype=np.int64)
        chance = rng.random(n)
        form[chance < 0.06] = 1
        ends = np.flatnonzero(chance > 1 - 1 / 15)
        form[ends[ends + 1 < n] + 1] = 2
        form[ends] = np.where(rng.random(len(ends)) < 0.2, 4, 3)
        words = self.table[rng.integers(0, len(self.table), n)]
        out = self.forms[words + form * self.size].tolist()
        # Words that are seen nowhere else: names, numbers, identifiers.
        rare = np.flatnonzero(rng.random(n) < 0.03)
        draws = rng.integers(0, [4, len(SYLLABLES), len(SYLLABLES), 9999], (len(rare), 4)).tolist()
        for at, (kind, a, b, c) in zip(rare.tolist(), draws):
            name = SYLLABLES[a] + SYLLABLES[b]
            if kind == 0:
                out[at] = f" {name.title()}{SYLLABLES[c % len(SYLLABLES)]}"
            elif kind == 1:
                out[at] = f" {c}"
            elif kind == 2:
                out[at] = f" {c / 100}"
            else:
                out[at] = f" {name}_{c % 97}"
        return out

    def decorated(self, rng, text, chance):
        """Some texts hold code, lists or other scripts."""
        if self.sentences is not None:
            return text
        words = text.split(" ")
        if chance < 0.08:
            kind, n, m = rng.integers(0, [3, 100, 1000]).tolist()
            names = [re.sub(r"\W", "", words[int(i)]).lower() or "x" for i in rng.integers(0, len(words), 3)]
            code = CODE[kind].format(a=names[0], b=names[1], c=names[2], n=n, m=m)
            half = len(words) // 2
            return " ".join(words[:half]) + f"\n\n```{LANGUAGES[kind]}\n{code}```\n\n" + " ".join(words[half:])
        if chance < 0.28:
            step = max(8, len(words) // 6)
            parts = [" ".join(words[i : i + step]) for i in range(0, len(words), step)]
            return parts[0] + "\n\n" + "\n".join(f"{i}. **{p[:12].strip()}**: {p}" for i, p in enumerate(parts[1:], 1))
        if chance < 0.50:
            strange = ACCENTED if chance < 0.46 else OTHER
            for i in rng.integers(0, len(words), 1 + len(words) // 120).tolist():
                words[i] += " " + strange[int(rng.integers(0, len(strange)))]
            return " ".join(words).replace(" - ", " — ").replace("'s", "’s")
        return text


_maker = None


def _begin(seed, sentences):
    global _maker
    _maker = Maker(seed, sentences)


def _block(job):
    return _maker.block(*job)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", required=True, help="file to write, JSON lines; it appears when it is whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--texts", nargs="+", default=[], help="JSON lines whose sentences are used")
    args = parser.parse_args()
    sentences = sentences_of(args.texts)
    jobs = [(i, min(BLOCK, args.rows - i * BLOCK)) for i in range(-(-args.rows // BLOCK))]
    begin, done = time.monotonic(), 0
    part = args.out + ".part"
    with multiprocessing.Pool(args.jobs, _begin, (args.seed, sentences)) as pool, open(part, "wb") as out:
        for number, block in enumerate(pool.imap(_block, jobs, chunksize=4)):
            out.write(block)
            done += jobs[number][1]
            if number % 200 == 199:
                print(f"{done:,} rows, {done / (time.monotonic() - begin):,.0f} rows/s", file=sys.stderr)
    os.replace(part, args.out)
    size = os.path.getsize(args.out)
    print(f"{args.out}: {args.rows:,} rows, {size / 1e6:,.1f} MB, {time.monotonic() - begin:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
