"""Settings from TOML and flags, names of methods, and the summary."""

from fractions import Fraction
from pathlib import Path

import pytest

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.methods import parse_method
from hybridprompt.evaluate.settings import EvaluateSettings, RateClass, find_clips, load_settings
from hybridprompt.evaluate.summary import hulls, rows

CONFIGS = Path(__file__).parents[2] / "configs"


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_rates_by_height(tmp_path: Path) -> None:
    text = "[[rates]]\nmin_height = 900\nkbps = [400, 100]\n[[rates]]\nmin_height = 0\nkbps = 60\n"
    found = load_settings(config(tmp_path, text), {})
    assert found.rates_for(1080) == (100, 400)
    assert found.rates_for(900) == (100, 400)
    assert found.rates_for(899) == (60,)
    assert load_settings(config(tmp_path, "rates = [30, 20]"), {}).rates_for(2000) == (20, 30)


def test_flags_win(tmp_path: Path) -> None:
    path = config(tmp_path, 'seconds = 2\nscales = ["1", "1/2"]\nmethods = ["x265"]\nlight_frames = 3')
    flags = {"seconds": 1.0, "scales": ("1",), "rates": (RateClass(0, (10.0,)),), "speed": None}
    found = load_settings(path, flags)
    assert (found.seconds, found.light_frames, found.speed) == (1, 3, False)
    assert [str(m) for m in found.methods] == ["x265"]
    assert found.rates_for(1080) == (10,)


def test_scales_are_for_peers_at_full_size() -> None:
    methods = tuple(map(parse_method, ("hybridprompt-slow", "vp9", "x264@1/3", "frame-by-frame")))
    found = EvaluateSettings(methods=methods, scales=("1", "2/3"))
    assert [str(m) for m in found.methods] == [
        "hybridprompt-slow",
        "vp9",
        "vp9@2/3",
        "x264@1/3",
        "frame-by-frame",
    ]
    assert found.methods[2].scale == Fraction(2, 3)


def test_samples_of_a_method(tmp_path: Path) -> None:
    text = "heavy_frames = 5\n[method.x265]\nheavy_frames = 1\n[method.'x265@1/2']\nlight_frames = 2\n"
    found = load_settings(config(tmp_path, text), {})
    assert found.samples_for(parse_method("x264")) == (10, 5)
    assert found.samples_for(parse_method("x265")) == (10, 1)
    assert found.samples_for(parse_method("x265@1/2")) == (2, 5)
    assert found.samples_for(parse_method("x265@1/3")) == (10, 1)


def test_rates_of_single_methods(tmp_path: Path) -> None:
    text = (
        "rates = [100, 200, 400]\n[method.x265]\nkbps = [200, 100, 150]\n[method.'x265@1/2']\nkbps = [100]\n"
    )
    found = load_settings(config(tmp_path, text), {})
    rates = {
        name: found.rates_of(parse_method(name), 720) for name in ("x264", "x265", "x265@2/3", "x265@1/2")
    }
    assert rates == {
        "x264": (100.0, 200.0, 400.0),
        "x265": (100.0, 200.0),
        "x265@2/3": (100.0, 200.0),
        "x265@1/2": (100.0,),
    }


def test_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FOLDER", "/data")
    found = load_settings(config(tmp_path, 'clips = ["$SOME_FOLDER/x", "${SOME_FOLDER}/y"]'), {})
    assert found.clips == (Path("/data/x"), Path("/data/y"))
    found = load_settings(config(tmp_path, 'clips = "a"\nknown = "$SOME_FOLDER/results.jsonl"'), {})
    assert found.known == (Path("/data/results.jsonl"),)
    assert found.as_dict()["known"] == ["/data/results.jsonl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no toml", "run.toml: "),
        ("speeds = true", "unknown settings speeds"),
        ('seconds = "4"', "seconds: is '4', expected a number"),
        ("seconds = 0.01", "seconds is 0.01"),
        ("seconds = nan", "seconds: is nan"),
        ("start_share = 1", "start_share is 1, expected 0 or more and less than 1"),
        ("start_share = -0.1", "start_share is -0.1"),
        ('heavy_precision = "half"', "heavy_precision is 'half', expected one of float32, bfloat16"),
        ("threads = 2.5", "threads: is 2.5, expected a whole number"),
        ("threads = 99", "threads is 99, expected 1 to 6"),
        ("speed = 1", "speed: is 1, expected true or false"),
        ('methods = ["svt"]', "methods: method is 'svt', expected one of hybridprompt-fast"),
        ('methods = ["hybridprompt-fast@1/2"]', "has no scales"),
        ('methods = ["x264@3/2"]', "scale is '3/2'"),
        ("methods = []", "methods is empty"),
        ('metrics = ["SSIM"]', "metrics has 'SSIM'"),
        ("rates = []", "kbps is empty"),
        ("rates = [100, 100]", "a rate twice"),
        ("rates = [1]", "kbps has 1, expected rates from 5"),
        ("[[rates]]\nmin_height = 5\nkbps = [10]", "min_height = 0"),
        ("[[rates]]\nkbps = [10]", "rates: entry 1"),
        ('x265_preset = "quick"', "x265_preset is 'quick'"),
        ('clips = ["$NO_SUCH_VARIABLE/x"]', "NO_SUCH_VARIABLE is not set"),
        ("clips = 3", "clips: is 3, expected a list"),
        ("[method.x265]\nframes = 1", "method: x265"),
        ("[method.x265]\nkbps = 100", "method: x265.kbps is 100, expected a list of rates"),
        ("[method.x265]\nkbps = []", "method.x265.kbps is empty"),
        ("[method.x265]\nkbps = ['a']", "method: is 'a', expected a number"),
        ("[method.x26]\nheavy_frames = 1", "method.x26"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(config(tmp_path, text), {})
    assert str(error.value).startswith(str(tmp_path / "run.toml"))
    assert message in str(error.value)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml", {})


@pytest.mark.parametrize("name", ["evaluate_short", "evaluate_results"])
def test_the_shipped_configs_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDPROMPT_DATA", "/data")
    assert load_settings(CONFIGS / f"{name}.toml", {}).seconds == 4


def test_clips_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).touch()
    assert find_clips((tmp_path,)) == (tmp_path / "a.MKV", tmp_path / "b.mp4")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="no video in the folder"):
        find_clips((tmp_path / "sub",))
    with pytest.raises(ConfigError, match="same name"):
        find_clips((tmp_path, tmp_path / "b.mov"))
    with pytest.raises(ConfigError, match="clips is empty"):
        find_clips(())


def record(method: str, clip: str, lpips: float, rate: float = 100.0, **more: object) -> dict[str, object]:
    base, _, scale = method.partition("@")
    return {
        "clip": clip,
        "method": method,
        "family": base,
        "scale": scale or "1",
        "target_kbps": rate,
        "actual_kbps": rate,
        "matched": True,
        "error": None,
        "metrics": {"LPIPS-Alex": lpips},
        **more,
    }


def test_hulls_take_the_best_scale_of_each_clip() -> None:
    records = [
        record("x265", "a", 0.4),
        record("x265@1/2", "a", 0.3),
        record("x265", "b", 0.2),
        record("x265@1/2", "b", 0.5),
        record("vp9", "a", 0.1),
    ]
    assert [(h["method"], h["clip"], h["hull_of"]) for h in hulls(records)] == [
        ("x265 (hull)", "a", "x265@1/2"),
        ("x265 (hull)", "b", "x265"),
    ]


def test_rows_compare_with_the_best_svt_av1_of_each_clip() -> None:
    records = [
        record("svt-av1", "a", 0.4, 200.0),
        record("svt-av1@1/2", "a", 0.2, 200.0),
        record("svt-av1", "b", 0.1, 100.0),
        record("hybridprompt", "a", 0.1, 200.0),
        record("hybridprompt", "b", 0.1, 100.0, matched=False),
        {**record("x265", "b", 0.0), "error": "no", "metrics": {}},
    ]
    found = {row.method: row for row in rows(records, ["LPIPS-Alex"])}
    assert set(found) == {"svt-av1", "svt-av1@1/2", "hybridprompt", "svt-av1 (hull)"}
    ours = found["hybridprompt"]
    assert (ours.rate_index, ours.clips, ours.kbps, ours.unmatched) == (0, 2, 150.0, 1)
    assert ours.values["LPIPS-Alex"] == pytest.approx(0.1)
    assert ours.relative["LPIPS-Alex"] == pytest.approx((-50 + 0) / 2)
    assert found["svt-av1 (hull)"].values["LPIPS-Alex"] == pytest.approx(0.15)
