"""The report as a whole: self-contained, safe, repeatable, and useful with little."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_records import curve, full_run, record, write_run

from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.evaluate.report.build import main_markdown, write_report
from hybridprompt.evaluate.report.load import Run, load_run
from hybridprompt.evaluate.report.plots import mean_rate_plot, rate_plots

HOSTILE = '<script>alert("x")</script>$\\frac$_|`\'../../etc'


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("full"), full_run())
    write_report(folder)
    return folder


def page(folder: Path) -> Page:
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_outside(full: Path) -> None:
    found = page(full)
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    html = (full / "report" / "index.html").read_text(encoding="utf-8")
    assert "url(" not in html
    assert "@import" not in html
    assert re.findall(r"https?:", html) == []
    images = [a for tag, a in found.tags if tag == "img"]
    assert len(images) == len(list((full / "report" / "plots").glob("*.png")))


def test_plots_have_their_numbers_beside_them(full: Path) -> None:
    pictures = sorted((full / "report" / "plots").glob("*.png"))
    assert [p.stem for p in pictures] == sorted(p.stem for p in (full / "report" / "plots").glob("*.csv"))
    assert {"rate_lpips_alex_mean", "rate_lpips_alex_clips", "frames_dog", "speed_1280x720"} <= {
        p.stem for p in pictures
    }
    for picture in pictures:
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert b"tIME" not in data
        assert b"matplotlib" not in data
    rows = (full / "report" / "plots" / "rate_lpips_alex_clips.csv").read_text().splitlines()
    assert rows[0] == "clip,family,method,target_kbps,rate_kbps,LPIPS-Alex,on_hull"
    assert "dog,svt-av1,svt-av1@1/2,60,59.400,0.110782,yes" in rows
    assert "dog,svt-av1,svt-av1,60,59.400,0.116190,no" in rows


def test_the_page_tells_gains_losses_and_failures(full: Path) -> None:
    text = page(full).text
    assert "the encoder gave up" in text
    # Failures come first, but for the links to all sections.
    assert text.index("the encoder gave up") < text.rindex("In short")
    assert "LPIPS-Alex: better in 4, level in 0, worse in 4 of 8" in text
    assert "32 of 32 results are within 2 % of their target rate." in text
    assert "the decoded pictures are not available" in text
    assert "nested.a" in text


def test_without_failures_none_are_spoken_of(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, curve("dog", "svt-av1", 1.0, rates=(60.0,))))
    assert "Failures" not in page(tmp_path).text


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    records = [record("dog", m, LPIPS_Alex=0.2, PSNR_Y=30) for m in ("svt-av1", "svt-av1@1/2")]
    write_report(write_run(tmp_path / "a", records))
    write_report(write_run(tmp_path / "b", reversed(records)))

    def digests(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in (folder / "report").rglob("*")
            if p.is_file()
        }

    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    records = [
        record(HOSTILE, "svt-av1", LPIPS_Alex=0.2),
        record(HOSTILE, HOSTILE, family="hybridprompt", LPIPS_Alex=0.1),
        record(HOSTILE, "x265", family="x265", error=HOSTILE),
    ]
    records[0]["settings"] = {HOSTILE: HOSTILE}
    write_report(write_run(tmp_path, records, {HOSTILE: HOSTILE}))
    found = page(tmp_path)
    assert "script" not in [tag for tag, _ in found.tags]
    assert HOSTILE in found.text
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert written == [
        "report/index.html",
        "report/plots/frames_script_alert_x_script_frac_etc.csv",
        "report/plots/frames_script_alert_x_script_frac_etc.png",
        "report/plots/rate_lpips_alex_clips.csv",
        "report/plots/rate_lpips_alex_clips.png",
        "report/plots/speed_1280x720.csv",
        "report/plots/speed_1280x720.png",
        "report/results.md",
        "results.jsonl",
        "settings.json",
    ]
    markdown = (tmp_path / "report" / "results.md").read_text()
    assert "<script" not in markdown.partition("```json")[0]


@pytest.mark.parametrize(
    "records",
    [
        [record("dog", "hybridprompt-fast", family="hybridprompt", DISTS=0.1)],
        [record("dog", "svt-av1", DISTS=0.1)],
        [record("dog", "svt-av1")],
        [record("dog", "svt-av1", error="nothing worked")],
        [record("dog", "svt-av1") | {"encode": None, "decode": None, "per_frame": {}}],
        [record("dog", "svt-av1", PSNR_Y=30), record("dog", "ours", family="hybridprompt", DISTS=0.1)],
        [record("a", target=60, PSNR_Y=30), record("b", target=90, PSNR_Y=31), record("b", target=99)],
    ],
    ids=["ours alone", "peer alone", "no metric", "all failed", "bare", "other metrics", "other rates"],
)
def test_partial_results_make_a_report(tmp_path: Path, records: list[dict]) -> None:
    index = write_report(write_run(tmp_path, records, None))
    assert index == tmp_path / "report" / "index.html"
    assert page(tmp_path).text
    assert (tmp_path / "report" / "results.md").read_text().startswith("# Results")


def test_plots_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    write_run(tmp_path, curve("dog", "svt-av1", 1.0, rates=(60.0,)))
    write_report(tmp_path)
    (tmp_path / "report" / "notes.txt").write_text("mine")
    (tmp_path / "report" / "plots" / "old.png").write_bytes(b"")
    write_report(tmp_path)
    names = {p.name for p in (tmp_path / "report").rglob("*")}
    assert "notes.txt" in names
    assert "old.png" not in names
    assert not [name for name in names if "partial" in name]


def test_a_broken_run_leaves_the_old_report(tmp_path: Path) -> None:
    index = write_report(write_run(tmp_path, [record("dog", "svt-av1")]))
    before = index.read_bytes()
    (tmp_path / "results.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="line 1"):
        write_report(tmp_path)
    assert index.read_bytes() == before


def test_extrapolated_speeds_are_marked(tmp_path: Path) -> None:
    found = record("dog", "frame-by-frame", family="frame-by-frame")
    found["decode"] |= {"extrapolated_from_frames": 8}
    write_report(write_run(tmp_path, [found]))
    assert "frame-by-frame (decoding extrapolated)" in page(tmp_path).text


def test_rates_that_were_not_met_are_named(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, [record("dog", "svt-av1", 100.0, actual=130.0, LPIPS_Alex=0.1)]))
    text = page(tmp_path).text
    assert "0 of 1 results are within 2 % of their target rate." in text
    assert "+30.0 %" in text


def test_missing_metrics_are_told_with_their_reason(tmp_path: Path) -> None:
    lacking = record("dog", "svt-av1", PSNR_Y=30) | {"missing": {"VMAF": "no ffmpeg in /opt/tools/bin"}}
    write_report(write_run(tmp_path, [lacking]))
    assert "no ffmpeg in /opt/tools/bin" in page(tmp_path).text
    assert "| VMAF | svt-av1 | no ffmpeg in bin | 1 |" in (tmp_path / "report" / "results.md").read_text()


def test_markdown_has_everything_and_no_paths(full: Path, tmp_path: Path) -> None:
    output = main_markdown(full, tmp_path / "results.md")
    text = output.read_text(encoding="utf-8")
    assert text == (full / "report" / "results.md").read_text(encoding="utf-8")
    assert "| dog | 120 | vp9 | the encoder gave up |" in text
    assert "| dog | 480 | x265 | 475.2 | 41.25 | 0.0581 | 31.90 |" in text
    assert "/somewhere/private" not in text
    assert "dog.mp4" in text
    assert "0.1108 → 0.0949 (−14.4 %)" in text
    assert "0.1108 → 0.1299 (+17.3 %)" in text
    # Every table is whole: all its lines have as many cells as its head.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1
    with pytest.raises(MediaError, match="there is no directory"):
        main_markdown(full, tmp_path / "nowhere" / "results.md")


def test_paths_in_messages_are_cut_in_markdown(tmp_path: Path) -> None:
    write_run(tmp_path, [record("dog", "svt-av1", error="/home/me/clips/dog.mp4: 1/2 of it is damaged")])
    text = main_markdown(tmp_path, tmp_path / "out.md").read_text()
    assert "| dog.mp4: 1/2 of it is damaged |" in text
    assert "/home" not in text


def test_the_mean_plot_needs_several_clips(full: Path, tmp_path: Path) -> None:
    run = load_run(full)
    assert mean_rate_plot(run, "LPIPS-Alex") is not None
    one = load_run(write_run(tmp_path, curve("dog", "svt-av1", 1.0)))
    assert [p.name for p in rate_plots(one, "LPIPS-Alex")] == ["rate_lpips_alex_clips"]
    assert rate_plots(Run([], [], {}), "LPIPS-Alex") == []
