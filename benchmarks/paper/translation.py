"""The paper's Table 4: a transformer that loses attention heads while it learns to translate.

    python benchmarks/paper/translation.py [--quick] [--width 64] [--pairs 20000] [--epochs 3]

Six encoder and six decoder layers of eight heads each, as in the paper, at a width that trains here, on English-German
pairs: the first lines of descriptions of Debian packages and their translations, split by source package. Gates sit on
the heads of encoder, decoder and cross-attention and nowhere else; the network learns from random weights with them.
The score is BLEU (sacrebleu) of translations by beam search. Needs the PyPI packages sacrebleu and sentencepiece, and
lists of apt:

    apt-get update -o Acquire::Languages=en,de -o Dir::State::Lists=FOLDER    # FOLDER/partial must be there
    python benchmarks/paper/translation.py --lists FOLDER
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import Network, floats
from keeping import Desk, Row, arguments, table
from onnx import TensorProto, helper

import tgonnx as tg
from tgonnx.graph.builder import Value
from tgonnx.runtime.sessions import open_session

LAYERS, HEADS = 6, 8
KINDS = ("encoder", "decoder", "cross")
TARGETS = (0.39, 0.83)  # of the heads
LENGTH = 20  # tokens of a sentence at most, with its end
VOCABULARY = 2000
PAD, BEGIN, END, UNKNOWN = range(4)
BEAMS = 4
FAR = -1e9  # what is added to the scores of what must not be looked at
Array = np.ndarray[Any, Any]


# --- the network --------------------------------------------------------------------------------------------


class Transformer(Network):
    """Vaswani et al. 2017, normalised before each part: `source` [N, S] and `given` [N, T] to `scores` [N, T, V]."""

    def __init__(self, width: int, words: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.width = width
        source, given = (self.value(name, TensorProto.INT64) for name in ("source", "given"))
        absent = source.equals(PAD).cast(TensorProto.FLOAT) * FAR
        hidden = absent.unsqueeze([1, 2])
        x = self.embedded(source, "encoder", words)
        for layer in range(LAYERS):
            normed = self.norm(x, f"encoder.{layer}.norm1")
            x = x + self.attention(f"encoder.{layer}", normed, normed, hidden)
            x = x + self.feed_forward(f"encoder.{layer}", self.norm(x, f"encoder.{layer}.norm2"))
        memory = self.norm(x, "encoder.norm")
        length = given.shape(1, 2)
        square = self.e.filled(self.e.concat([length, length], 0), FAR)
        future = self.e.op("Trilu", square, self.e.constant(np.array(1)), upper=1)
        x = self.embedded(given, "decoder", words)
        for layer in range(LAYERS):
            normed = self.norm(x, f"decoder.{layer}.norm1")
            x = x + self.attention(f"decoder.{layer}", normed, normed, future)
            normed = self.norm(x, f"decoder.{layer}.norm2")
            x = x + self.attention(f"cross.{layer}", normed, memory, hidden)
            x = x + self.feed_forward(f"decoder.{layer}", self.norm(x, f"decoder.{layer}.norm3"))
        scores = self.linear(self.norm(x, "decoder.norm"), "out", width, words)
        self.named(scores, "scores")
        tokens = [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["N", s])
            for n, s in (("source", "S"), ("given", "T"))
        ]
        self.net = self.model("transformer", tokens, [floats("scores", "N", "T", words)])

    def embedded(self, tokens: Value, name: str, words: int) -> Value:
        """Tokens and their places."""
        rows = self.store(f"{name}.embedding", self.rng.normal(0, 0.1, (words, self.width)))
        angles = np.arange(LENGTH)[:, None] / 1000 ** (np.arange(0, self.width, 2) / self.width)
        places = self.store(f"{name}.places", 0.1 * np.concatenate([np.sin(angles), np.cos(angles)], 1))
        return self.e.op("Gather", rows, tokens) + places.slice([0], tokens.shape(1, 2), [0])

    def linear(self, x: Value, name: str, channels: int, out: int) -> Value:
        weight = self.store(f"{name}.weight", self.rng.normal(0, 1 / np.sqrt(channels), (channels, out)))
        return self.e.matmul(x, weight) + self.store(f"{name}.bias", np.zeros(out))

    def norm(self, x: Value, name: str) -> Value:
        scale, bias = (
            self.store(f"{name}.{n}", np.full(self.width, v)) for n, v in (("scale", 1.0), ("bias", 0.0))
        )
        return self.e.op("LayerNormalization", x, scale, bias, axis=-1)

    def attention(self, name: str, x: Value, memory: Value, hidden: Value) -> Value:
        """Attention of eight heads; what is looked at is called NAME.looks, which no other channels take part in."""
        size = self.width // HEADS
        parts = []
        for part, read in (("q", x), ("k", memory), ("v", memory)):
            found = self.linear(read, f"{name}.{part}", self.width, self.width).reshape([0, 0, HEADS, size])
            parts.append(found.transpose([0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
        scores = self.e.matmul(parts[0], parts[1]) * (size**-0.5) + hidden
        looks = self.e.op("Softmax", scores, axis=-1)
        self.named(looks, f"{name}.looks")
        said = self.e.matmul(self.value(f"{name}.looks"), parts[2]).transpose([0, 2, 1, 3])
        return self.linear(said.reshape([0, 0, self.width]), f"{name}.out", self.width, self.width)

    def feed_forward(self, name: str, x: Value) -> Value:
        inner = self.e.op("Relu", self.linear(x, f"{name}.inner", self.width, 4 * self.width))
        return self.linear(inner, f"{name}.outer", 4 * self.width, self.width)


def heads(model: onnx.ModelProto, width: int) -> dict[str, int]:
    """The heads that a model has, by kind of attention, read off the shapes of its weights."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    size = width // HEADS
    return {k: sum(shapes[f"{k}.{layer}.v.weight"][1] for layer in range(LAYERS)) // size for k in KINDS}


# --- sentences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Pairs of sentences to learn from and to be tested on, and what makes tokens of them and sentences of tokens."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    words: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


def stanzas(file: Path) -> Iterator[dict[str, str]]:
    """The fields of the stanzas of a list of apt, the first line of each; packed lists are unpacked by apt itself."""
    if file.suffix in (".lz4", ".xz", ".gz"):
        command = ["/usr/lib/apt/apt-helper", "cat-file", str(file)]
        said = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    else:
        said = file.read_text()
    for stanza in said.split("\n\n"):
        lines = (line.partition(": ") for line in stanza.splitlines() if line[:1] not in ("", " "))
        yield {name: value for name, _, value in lines}


def descriptions(folder: str) -> list[tuple[str, str, str]]:
    """Source package, English and German first line of all packages that have both. Ends the program without lists."""
    found: dict[str, dict[str, str]] = {}
    for language in ("en", "de"):
        for file in sorted(Path(folder).glob(f"*_main_i18n_Translation-{language}*")):
            for fields in stanzas(file):
                if f"Description-{language}" in fields:
                    found.setdefault(fields["Description-md5"], {"package": fields["Package"]})[language] = (
                        fields[f"Description-{language}"]
                    )
    sources = {
        fields["Package"]: fields.get("Source", fields["Package"]).split()[0]
        for file in sorted(Path(folder).glob("*_main_binary-*_Packages*"))
        for fields in stanzas(file)
        if "Package" in fields
    }
    both = {
        (each["en"], each["de"]): each["package"] for each in found.values() if {"en", "de"} <= each.keys()
    }
    pairs = [(sources.get(name, name), en, de) for (en, de), name in both.items() if en != de]
    if not pairs:
        sys.exit(f"{folder}: no descriptions in English and German; see --help for how apt fetches them")
    return pairs


def real(folder: str, count: int) -> Text:
    """Descriptions of packages, a fiftieth of the source packages for the test; subwords of the pairs to learn from."""
    import sentencepiece

    pairs = descriptions(folder)
    sources = sorted({source for source, _, _ in pairs})
    order = np.random.default_rng(0).permutation(len(sources))
    held = {sources[place] for place in order[: len(sources) // 50]}
    train = [(en, de) for source, en, de in pairs if source not in held]
    test = [(en, de) for source, en, de in pairs if source in held]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(sentence for pair in train for sentence in pair), model_writer=written, minloglevel=2,
        vocab_size=VOCABULARY, model_type="bpe", pad_id=PAD, bos_id=BEGIN, eos_id=END, unk_id=UNKNOWN,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    order = np.random.default_rng(1).permutation(len(train))[:count]
    return Text([train[place] for place in order], test[:300], VOCABULARY, pieces.encode, pieces.decode)


def made_up(count: int, seed: int = 0) -> Text:
    """A language of thirty words, whose translation says them once more in the other order, for `--quick`."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        sentence = [f"w{word}" for word in rng.integers(0, 30, rng.integers(4, 7))]
        pairs.append((" ".join(sentence), " ".join(sentence[::-1]).replace("w", "v")))

    def encode(sentence: str) -> list[int]:
        return [4 + int(word[1:]) + 30 * (word[0] == "v") for word in sentence.split()]

    def decode(tokens: list[int]) -> str:
        return " ".join(
            f"{'v' if token >= 34 else 'w'}{(token - 4) % 30}" for token in tokens if token > UNKNOWN
        )

    return Text(pairs[20:], pairs[:20], 64, encode, decode)


def arrays(text: Text, pairs: list[tuple[str, str]]) -> dict[str, Array]:
    """`source`, `given` and `label` [N, LENGTH] of the pairs that are short enough; a label of -100 is none."""
    rows = []
    for pair in pairs:
        first, second = (text.encode(sentence) for sentence in pair)
        if max(len(first), len(second)) < LENGTH:
            rows.append(([*first, END], [BEGIN, *second], [*second, END]))

    def filled(column: int, empty: int) -> Array:
        found = np.full((len(rows), LENGTH), empty, np.int64)
        for line, row in zip(found, rows, strict=True):
            line[: len(row[column])] = row[column]
        return found

    return {"source": filled(0, PAD), "given": filled(1, PAD), "label": filled(2, -100)}


# --- translating --------------------------------------------------------------------------------------------


def beam_search(
    run: Callable[[dict[str, Array]], Array], sentence: list[int], beams: int = BEAMS
) -> list[int]:
    """The translation of tokens: of the finished ones, the likeliest a token. `run` gives scores of feeds."""
    alive, finished = [(0.0, [BEGIN])], list[tuple[float, list[int]]]()
    for _ in range(LENGTH - 1):
        source = np.tile(np.array([[*sentence, END]], np.int64), (len(alive), 1))
        scores = run({"source": source, "given": np.array([tokens for _, tokens in alive], np.int64)})[:, -1]
        scores = scores - scores.max(1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        logs[:, [PAD, BEGIN]] = -np.inf
        total = logs + np.array([[score] for score, _ in alive])
        best = np.argsort(-total, axis=None)[: 2 * beams]
        going = [
            (float(total.flat[n]), [*alive[n // logs.shape[1]][1], int(n % logs.shape[1])]) for n in best
        ]
        finished += [(score / len(tokens), tokens[1:-1]) for score, tokens in going if tokens[-1] == END]
        alive = [each for each in going if each[1][-1] != END][:beams]
        if len(finished) >= beams:
            break
    finished += [] if finished else [(score / len(tokens), tokens[1:]) for score, tokens in alive]
    return max(finished)[1]


def bleu(model: onnx.ModelProto, text: Text) -> tuple[float, list[str]]:
    """BLEU on the test pairs, and the translations."""
    import sacrebleu

    session = open_session(model, 1)
    pairs = [(text.encode(first), second) for first, second in text.test]
    pairs = [(tokens, second) for tokens, second in pairs if len(tokens) < LENGTH]

    def run(feeds: dict[str, Array]) -> Array:
        return session.run(feeds)["scores"]

    said = [text.decode(beam_search(run, tokens)) for tokens, _ in pairs]
    return sacrebleu.corpus_bleu(said, [[second for _, second in pairs]]).score, said


# --- the experiment -----------------------------------------------------------------------------------------


class Experiment:
    """The text, and how a row is made."""

    def __init__(self, desk: Desk, options: argparse.Namespace) -> None:
        self.desk, self.options = desk, options
        self.text = made_up(options.pairs) if desk.quick else real(options.lists, options.pairs)
        values = arrays(self.text, self.text.train)
        self.data = values | {
            f"test_{name}": array for name, array in arrays(self.text, self.text.test).items()
        }
        self.how: dict[str, Any] = {
            "from_scratch": True, "optimizer": "adam", "lr": 2e-3, "clip": 1.0, "epochs": options.epochs,
            "smoothing": 0.1, "batch": 32, "threads": options.threads, "verify_seconds": 2.0,
        }  # fmt: skip

    def __call__(self, job: Row) -> Row:
        """The row of a job."""
        net = Transformer(self.options.width, self.text.words).net
        if job["target"] == 1.0:
            result = tg.tune(net, self.data, **self.how)
        else:
            looks = {"only": "*.looks", "criterion": "gates", "round_to": 1}
            result = tg.prune(net, self.data, target_for(net, job["target"]), **looks, **self.how)
        onnx.save(result.model, self.desk.networks / f"{job['target']}.onnx")
        score, said = bleu(result.model, self.text)
        (self.desk.networks / f"{job['target']}.txt").write_text("\n".join(said) + "\n")
        return {
            "heads": heads(result.model, self.options.width), "bytes": result.after.file_bytes,
            "learned_from": len(self.data["source"]), "bleu": round(score, 2), "accuracy": result.after.metric,
        }  # fmt: skip

    def times(self) -> None:
        """Milliseconds of all networks in turns: a sentence of the longest kind."""
        targets = [row["target"] for row in self.desk.rows() if "bleu" in row]
        files = [str(self.desk.networks / f"{target}.onnx") for target in targets]
        full = {name: np.maximum(self.data[name][:64], 4) for name in ("source", "given")}
        found = tg.evaluate(files, full, threads=1, part="all").models
        times = {str(target): each.latency.p50 for target, each in zip(targets, found, strict=True)}
        self.desk.run([{"method": "times", "of": sorted(times)}], lambda job: {"ms": times})


def target_for(net: onnx.ModelProto, share: float) -> str:
    """The target in channels of the whole model that leaves a share of the heads, where only heads may go."""
    coupling = tg.analyze(net)
    everything = coupling.cost_model.cost().channels
    of_heads = sum(group.size * group.width for group in coupling.groups if ".q.weight" in group.name)
    return f"channels={(everything - (1 - share) * of_heads) / everything:.6f}"


def report(desk: Desk) -> None:
    """Print the table."""
    rows = desk.rows()
    times = next((row["ms"] for row in reversed(rows) if row["method"] == "times"), {})
    scored = [row for row in rows if "bleu" in row]
    whole = next((row["bleu"] for row in scored if row["target"] == 1.0), None)
    lines = []
    for row in scored:
        ms, kept = times.get(str(row["target"])), row["heads"]
        share = sum(kept.values()) / (len(KINDS) * LAYERS * HEADS)
        off = "" if whole is None or row["target"] == 1.0 else f"{row['bleu'] - whole:+.2f}"
        figures = ("/".join(str(kept[kind]) for kind in KINDS), off, f"{row['bleu']:.2f}")
        lines.append((f"{share:.2f}", *figures, f"{row['bytes'] / 1e6:.2f}", f"{ms:.1f}" if ms else ""))
    table(("heads left", "En/De/En-De", "difference", "BLEU", "MB", "ms"), lines)


def main() -> None:
    numbers = {"--width": 64, "--pairs": 20_000, "--epochs": 3}
    options = arguments(
        __doc__,
        *((name, {"type": int, "default": value}) for name, value in numbers.items()),
        ("--lists", {"default": "/var/lib/apt/lists"}),
    )
    if options.quick:
        options.width, options.pairs, options.epochs = 32, 660, 2
    desk = Desk("translation", options.quick, options.out)
    if not options.table:
        asked = {name.strip("-"): getattr(options, name.strip("-")) for name in numbers}
        experiment = Experiment(desk, options)
        desk.run([{"method": "heads", "target": target} | asked for target in (1.0, *TARGETS)], experiment)
        experiment.times()
    report(desk)


if __name__ == "__main__":
    main()
