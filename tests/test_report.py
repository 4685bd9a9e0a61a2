"""Reports and pictures: one page without network, whatever names hold, written whole or not at all, fit for phones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_task import network, samples
from tiny_models import model_of, normal

import tgonnx as tg
from tgonnx.analysis.layers import layers_of
from tgonnx.cli.app import main
from tgonnx.drawing.charts import pair_chart
from tgonnx.drawing.files import read_stories
from tgonnx.drawing.lanes import Row, folded, lanes_of
from tgonnx.drawing.page import page, sweep_page
from tgonnx.drawing.svg import Drawing
from tgonnx.drawing.tags import letters, tags_of
from tgonnx.errors import UsageError
from tgonnx.pipeline import PruneResult
from tgonnx.report.coupling_picture import CouplingPicture

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parent.parent
RESNET = ROOT / "models" / "fashion_resnet20.onnx"
EVIL = '<script>alert("1")</script>&\x1b\ufffe'
SVG = "{http://www.w3.org/2000/svg}"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
QUICK: dict[str, Any] = {"epochs": 1, "threads": 1, "force": True}  # the network is not trained


class Reader(HTMLParser):
    """Checks that elements are nested, and collects elements, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    """The page, which must be well formed and ask nobody for anything."""
    reader = Reader(text)
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert reader.links == []
    assert not re.search(r"https?://|url\(|@import", text)
    return reader


def evil() -> onnx.ModelProto:
    """The small network, with names that mean harm wherever a report shows names."""
    model = network()
    names = {tensor.name: tensor.name + EVIL for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}{EVIL}"
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PruneResult]:
    """A run of gates that learned, in its folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = tg.prune(
        evil(), samples(), "flops=0.5", criterion="gates", **QUICK | {"epochs": 3}, run_dir=str(folder)
    )
    return folder, result


# --- the run folder ---------------------------------------------------------------------------------------


def test_a_run_folder_has_a_report(run: tuple[Path, PruneResult]) -> None:
    folder, result = run
    assert result.run_dir == folder
    assert not [note for note in result.notes if note.code == "report"]
    words = " ".join(read((folder / "report.html").read_text()).words)
    for part in (
        "Before and after", "accuracy (test part", "Accuracy and cost over time", "Kept channels by layer",
        "What each group cost", "score kept / cut", "What stays, and why",
        "Verification", "equal", "Recipe", "criterion", *result.notes,
    ):  # fmt: skip
        assert part in words
    assert "Time by operator" not in words  # nobody measured it
    data = json.loads((folder / "report.json").read_text())
    assert data["after"]["cost"]["flops"] == result.after.cost.flops
    assert [record["epoch"] for record in data["history"]] == [record.epoch for record in result.history]
    assert (folder / "report.json").stat().st_size < 100_000
    drawn = {path.name: ET.fromstring(path.read_text()) for path in (folder / "pictures").glob("*.svg")}
    assert drawn.keys() == {"kept.svg", "accuracy.svg", "flops-left.svg", "loss.svg"}
    assert len([*drawn["loss.svg"].iter(f"{SVG}circle")]) == len(
        [r for r in result.history if r.loss is not None]
    )


def test_names_from_foreign_files_are_escaped(run: tuple[Path, PruneResult], tmp_path: Path) -> None:
    folder, result = run
    text = (folder / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text
    assert "\x1b" not in text
    coupling = tg.analyze(tg.load(evil()))
    picture = CouplingPicture(coupling)
    for drawn in (result.plot(), picture.drawing()):
        assert "<script" not in drawn.standalone()
        assert any(
            "<script>" in (e.text or "") for e in ET.fromstring(drawn.standalone()).iter(f"{SVG}title")
        )
    assert re.search(r'label="[^"]*<script>alert\(\\"1\\"\)', picture.dot())
    assert "\x1b" not in picture.dot()


def test_layers_groups_and_scores_are_those_of_the_result(run: tuple[Path, PruneResult]) -> None:
    _, result = run
    story = result.story()
    by_name = {tensor.name: tensor.dims for tensor in result.model.graph.initializer}
    kept = {layer["name"].split("<")[0]: (layer["before"], layer["after"]) for layer in story["layers"]}
    assert list(kept) == ["w1", "w2", "w3", "w4"]
    for name, (before, after) in kept.items():
        assert after == by_name[name + EVIL][0]
        assert before == {"w1": 8, "w2": 8, "w3": 6, "w4": 3}[name]
    first, second, third, last = (layer["group"] for layer in story["layers"])
    assert first == second  # a residual block
    assert third not in (first, None)
    assert last is None
    assert sum(group["kept"] for group in story["groups"]) == int(result.mask.open.sum())
    assert sum(layer["flops"][1] for layer in story["layers"]) == pytest.approx(result.after.cost.flops)
    for group in story["groups"]:
        assert group["flops"][0] >= group["flops"][1] > 0
        if group["kept"] < group["units"]:
            assert 0 < group["saved"] < 1
            assert group["scores"]["kept"] > group["scores"]["cut"]


def test_a_report_is_made_anew(run: tuple[Path, PruneResult], tmp_path: Path, capsys: Capture) -> None:
    folder, _ = run
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == before
    out = tmp_path / "other.html"
    assert main(["report", str(folder), "-o", str(out), "--json"]) == 0
    assert out.read_text() == before
    capsys.readouterr()
    for arguments, part in (
        ([str(folder), "-o", str(out)], "exists already"),
        ([str(folder), "-o", str(tmp_path / "x.pdf")], "x.html"),
        ([str(folder), "-o", str(folder / "report.json"), "--overwrite"], "never overwritten"),
        ([str(tmp_path)], "has no report.json"),
        ([str(tmp_path / "none")], "has no report.json"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", "null", "cut", "other format", "no layers", "text for a number"]
)
def test_damaged_data_are_one_line(damage: str, run: tuple[Path, PruneResult], tmp_path: Path) -> None:
    text = (run[0] / "report.json").read_text()
    data = json.loads(text)
    made = {
        "cut": text[: len(text) // 2],
        "other format": json.dumps(data | {"format": "tgonnx-report-99"}),
        "no layers": json.dumps({key: value for key, value in data.items() if key != "layers"}),
        "text for a number": json.dumps(data | {"achieved": "half"}),
    }
    (tmp_path / "report.json").write_text(made.get(damage, damage))
    with pytest.raises(UsageError, match=r"report\.json: damaged"):
        read_stories(tmp_path)


def test_a_report_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UsageError("the disk is full")

    monkeypatch.setattr("tgonnx.training.run_folder.write_report", full)
    folder = tmp_path / "r"
    result = tg.prune(network(), samples(200), "flops=0.7", criterion="l1", **QUICK, run_dir=str(folder))
    assert "no report: the disk is full" in result.notes
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


# --- prune --report ---------------------------------------------------------------------------------------


def test_prune_writes_a_page_or_figures(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    assert main(["prune", "m.onnx", "--report", "r.html"]) == 0
    reader = read(Path("r.html").read_text())
    words = " ".join(reader.words)
    assert "CPU latency" in words
    assert "Accuracy was not measured" in words
    assert "written to m.pruned.onnx" in words
    assert main(["prune", "m.onnx", "--report", "r.json", "--overwrite"]) == 0
    assert json.loads(Path("r.json").read_text())["verification"]["ok"]
    capsys.readouterr()
    for name, part in (("r.pdf", ".html (a page)"), ("r.html", "exists already"), ("m.onnx", "m.onnx")):
        assert main(["prune", "m.onnx", "-o", "new.onnx", "--report", name]) == 2
        assert part in capsys.readouterr().err
        assert not Path("new.onnx").exists()


def short_run(*words: str) -> int:
    """The exit code of a run of one epoch on a small task, in the current folder."""
    onnx.save(network(), "m.onnx")
    np.savez("d.npz", **samples(200))
    command = ["prune", "m.onnx", "-d", "d.npz", "--criterion", "l1", "--epochs", "1", "--threads", "1"]
    return main([*command, "--force", "-q", *words])


def test_the_folder_of_a_run_learns_of_latencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_run("--target", "flops=0.7") == 0
    (story,) = read_stories(Path("runs/m-1"))
    assert story["before"]["latency"] > 0
    assert story["out"] == "m.pruned.onnx"
    assert "CPU latency" in Path("runs/m-1/report.html").read_text()


def test_a_sweep_has_one_page_and_one_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_run("--sweep", "flops=0.8,0.6", "--report", "r.html") == 0
    run = Path("runs/m-1")
    for path in (Path("r.html"), run / "report.html"):
        assert "All sizes" in read(path.read_text()).words
    for part in ("flops80", "flops60"):
        assert "All sizes" not in read((run / part / "report.html").read_text()).words
    assert len(read_stories(run)) == 2
    (run / "report.html").unlink()
    assert main(["report", str(run), "-q"]) == 0
    assert (run / "report.html").exists()


# --- results in Python ------------------------------------------------------------------------------------


def test_a_result_draws_and_reports_itself(run: tuple[Path, PruneResult], tmp_path: Path) -> None:
    _, result = run
    drawing = result.plot()
    ET.fromstring(drawing._repr_svg_())
    drawing.save(tmp_path / "kept.svg")
    assert (tmp_path / "kept.svg").read_text() == drawing.standalone()
    with pytest.raises(UsageError, match="exists already"):
        drawing.save(tmp_path / "kept.svg")
    with pytest.raises(UsageError, match=r"x\.gif: pictures are \.svg or \.png; write '.*x\.svg'"):
        drawing.save(tmp_path / "x.gif")
    result.report(tmp_path / "r.html")
    assert "Kept channels by layer" in read((tmp_path / "r.html").read_text()).words
    result.report(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(
        json.dumps(result.story() | {"times": {}})
    )
    with pytest.raises(UsageError, match=r"as \.html"):
        result.report(tmp_path / "r.txt")
    with pytest.raises(UsageError, match="exists already"):
        result.report(tmp_path / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.svg", "r.html", "r.json"]
    shown = result._repr_html_()
    assert "<svg" in shown
    assert "PruneResult" in shown
    assert "<script" not in shown


def test_times_by_operator_are_shown_if_they_are_known(run: tuple[Path, PruneResult], tmp_path: Path) -> None:
    run[1].report(tmp_path / "r.html", times={f"conv{EVIL}": (2.0, 0.5), "relu": (0.1, 0.1)})
    words = " ".join(read((tmp_path / "r.html").read_text()).words)
    assert "Time by operator" in words
    assert "2 to 0.5 ms" in words


def test_a_page_says_what_is_not_finite_and_what_was_not_trained(run: tuple[Path, PruneResult]) -> None:
    story = run[1].story()
    check = story["verification"] | {
        "max_rel": None,
        "ok": False,
        "verdict": "different",
        "reasons": ["y differs"],
    }
    words = " ".join(
        read(page(story | {"verification": check, "history": [], "layers": [], "groups": []})).words
    )
    assert "infinite relative" in words
    assert "y differs" in words
    assert "over time" not in words
    assert "Kept channels" not in words


def test_a_page_of_many_groups_says_how_many_are_left_out(run: tuple[Path, PruneResult]) -> None:
    story = run[1].story()
    many = [story["groups"][0] | {"name": f"g{number}"} for number in range(100)]
    assert "and 60 more groups" in page(story | {"groups": many})
    assert len(read(sweep_page([story] * 3)).words) > 100


# --- pictures of the coupling, and of what was lost ---------------------------------------------------------


def test_layers_know_what_they_read_and_write() -> None:
    coupling = tg.analyze(tg.load(RESNET))
    layers = layers_of(coupling)
    assert len(layers) == 22
    assert [layer.name for layer in layers[:3]] == ["stem", "stage1.block1.conv1", "stage1.block1.conv2"]
    stem, first, second, last = layers[0], layers[1], layers[2], layers[-1]
    assert stem.group == second.group
    assert first.reads == (stem.group,)
    assert second.reads == (first.group,)
    assert (last.group, last.channels) == (None, 10)
    assert [layer.kept(np.zeros(coupling.units, bool)) for layer in (stem, last)] == [0, 10]


def test_channels_are_along_the_axis_that_can_be_cut() -> None:
    """Positions are added to a sequence: time is an axis of both, and stays."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["a"]),
        onnx.helper.make_node("Add", ["a", "positions"], ["b"]),
        onnx.helper.make_node("MatMul", ["b", "second"], ["y"]),
    ]
    stored = {"first": normal(3, 8), "positions": normal(1, 5, 8), "second": normal(8, 2)}
    coupling = tg.analyze(tg.load(model_of(nodes, ["N", 5, 3], stored, ["y"])))
    found = [(layer.name, layer.channels, layer.group) for layer in layers_of(coupling)]
    assert found == [("first", 8, 0), ("positions", 8, 0), ("second", 2, None)]


def test_a_layer_may_write_several_groups() -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["a"]),
        onnx.helper.make_node("Split", ["a"], ["b", "c"], axis=-1, num_outputs=2),
        onnx.helper.make_node("MatMul", ["b", "left"], ["l"]),
        onnx.helper.make_node("MatMul", ["c", "right"], ["r"]),
        onnx.helper.make_node("Add", ["l", "r"], ["y"]),
    ]
    stored = {"first": normal(3, 12), "left": normal(6, 2), "right": normal(6, 2)}
    coupling = tg.analyze(tg.load(model_of(nodes, ["N", 3], stored, ["y"])))
    first, left, right = layers_of(coupling)
    assert len(first.makes) == 2
    assert {*left.reads, *right.reads} == {*first.makes}
    words = CouplingPicture(coupling).drawing().body
    assert "MatMul, 12 channels, 12 units in 2 groups" in words
    text = CouplingPicture(coupling).dot()
    assert text.count("layer0 -> group") == 2


def test_repeated_blocks_fold() -> None:
    blocks = "s" + "abc" * 4 + "dd" + "ab"
    rows = folded(len(blocks), lambda a, b: blocks[a] == blocks[b])
    plain = [Row(i, i) for i in (0, 1, 2, 3)]
    assert rows == [*plain, Row(4, 12, 3), *(Row(i, i) for i in (13, 14, 15, 16))]
    assert folded(0, lambda a, b: True) == []
    assert folded(2, lambda a, b: True) == [Row(0, 0), Row(1, 1)]
    assert folded(9, lambda a, b: True) == [Row(0, 0), Row(1, 8, 8)]


def test_no_two_lines_are_in_one_place() -> None:
    rng = np.random.default_rng(0)
    spans = {i: tuple(sorted(rng.integers(0, 60, 2).tolist())) for i in range(60)}
    lanes = lanes_of(spans)
    for row in range(60):
        here = [lanes[key] for key, (first, last) in spans.items() if first <= row <= last]
        assert len(here) == len(set(here))
    assert max(lanes.values()) < 60


def test_letters_and_colours() -> None:
    assert [letters(number) for number in (0, 25, 26, 51, 52, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]
    tags = tags_of([{"group": group} for group in ("a", "b", None, "b", "c", None, "a")])
    assert {group: tag.letter for group, tag in tags.items()} == {"a": "A", "b": "B"}


def test_inspect_draws_the_coupling(tmp_path: Path, capsys: Capture) -> None:
    svg, dot = tmp_path / "c.svg", tmp_path / "c.dot"
    assert main(["inspect", str(RESNET), "--svg", str(svg), "--dot", str(dot)]) == 0
    assert f"wrote {svg}" in capsys.readouterr().out.replace("\n", " ")
    root = ET.fromstring(svg.read_text())
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert "... the same 2 times more: stage1.block2.conv1 to stage1.block3.conv2" in words
    assert "stage1.block2.conv2" not in words
    written = [e for e in root.iter(f"{SVG}circle") if "writes stem.weight[0]" in [t.text for t in e]]
    assert len(written) == 2  # the stem and the first block; the others are folded
    text = dot.read_text()
    assert text.startswith("digraph")
    assert re.search(r'layer0 \[shape=box, label="stem\\nConv, 16 channels"\]', text)
    assert text.count(" -> group0") == 2
    before = svg.read_text()
    assert main(["inspect", str(RESNET), "--svg", str(svg)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["inspect", str(RESNET), "--svg", str(svg), "--overwrite", "-v", "-q"]) == 0
    assert "stage1.block2.conv2" in [e.text for e in ET.fromstring(svg.read_text()).iter(f"{SVG}text")]
    assert svg.read_text() != before


@pytest.mark.parametrize(("option", "name", "part"), [
    ("--svg", "c.gif", "pictures are .svg or .png"),
    ("--svg", "m.onnx", "never overwritten"),
    ("--dot", "m.onnx", "never overwritten"),
    ("--dot", "none/c.dot", "does not exist"),
])  # fmt: skip
def test_pictures_go_only_where_they_may(
    option: str, name: str, part: str, tmp_path: Path, capsys: Capture
) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    arguments = ["inspect", str(tmp_path / "m.onnx"), option, str(tmp_path / name), "--overwrite"]
    assert main(arguments) == 2
    assert part in capsys.readouterr().err
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_there_is_no_picture_of_sensitivity(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    arguments = ["inspect", str(tmp_path / "m.onnx"), "--sensitivity", "--svg", str(tmp_path / "c.svg")]
    assert main(arguments) == 2
    assert "leave --sensitivity out" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "m.onnx"), "--why", "*", "--svg", str(tmp_path / "c.svg")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "c.svg").exists()


def test_diff_draws_what_layers_have_left(tmp_path: Path, capsys: Capture) -> None:
    model, mask, small, svg = (str(tmp_path / name) for name in ("m.onnx", "k.json", "s.onnx", "d.svg"))
    onnx.save(network(), model)
    assert main(["mask", model, "-o", mask, "--target", "flops=0.5", "-q"]) == 0
    assert main(["apply", model, "--mask", mask, "-o", small, "-q"]) == 0
    assert main(["diff", model, small, "--svg", svg, "-q"]) == 0
    words = [element.text for element in ET.fromstring(Path(svg).read_text()).iter(f"{SVG}text")]
    left = {tensor.name: tensor.dims[0] for tensor in onnx.load(small).graph.initializer}
    for name, before in (("w1", 8), ("w2", 8), ("w3", 6), ("w4", 3)):
        assert words[words.index(name) + 1] == f"{left[name]} of {before}"
    assert main(["diff", model, small, "--svg", svg]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_picture_of_nothing_is_a_picture() -> None:
    for drawing in (pair_chart([], "ms", "none"), Drawing("", "", 1)):
        ET.fromstring(drawing.standalone())
        assert drawing.height >= 1


# --- in a browser -------------------------------------------------------------------------------------------


def cells(data: bytes) -> np.ndarray[Any, Any]:
    """The pixels of a PNG [height, width, 3]."""
    image = pytest.importorskip("PIL.Image")
    import io

    return np.asarray(image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed (chromium or google-chrome)")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page(
    width: int, dark: bool, run: tuple[Path, PruneResult], tmp_path: Path
) -> None:
    """Light and dark as asked for, and nothing reaches beyond the right edge, where only paper may be."""
    assert BROWSER is not None
    shot = tmp_path / "shot.png"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
        f"--window-size={width},2400", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        (run[0] / "report.html").resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = cells(shot.read_bytes())
    assert pixels.shape[1] == width
    paper = pixels[2, 2].astype(int)
    assert (paper.mean() < 40) if dark else (paper.mean() > 250)
    assert (pixels[:, -8:].astype(int) == paper).all()
    assert (np.abs(pixels.astype(int) - paper).max(axis=2) > 100).mean() > 0.01  # there is something to read


# --- the example --------------------------------------------------------------------------------------------


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    notebook = json.loads(Path("prune.ipynb").read_text())
    assert notebook["nbformat"] == 4
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    there: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "prune.ipynb", "exec"), there)
    result = there["result"]
    assert result.check.ok
    assert result.achieved <= 0.7
    assert (there["folder"] / "report.html").exists()
