"""Settings of a training run."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.loss import LossWeights
from hybridprompt.train.adversarial import AdversarialSettings
from hybridprompt.train.config import Distillation, TrainConfig, load_config

GOOD = """
corpus = "corpus"
run_folder = "out/run"
steps = 12
learning_rate = 1e-3
[network]
stem_channels = 8
[loss]
vgg = 0.0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_file_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.corpus == Path("corpus")
    assert config.run_folder == Path("out/run")
    assert config.steps == 12
    assert config.network.stem_channels == 8
    assert config.network.body_channels == 96
    assert config.loss.vgg == 0
    assert config.start_from is None
    assert config.more_corpora == ()
    coarse = 'more_corpora = ["a", "b"]\nfinest_key = 130\nfinest_inter = 175\n'
    config = load_config(write(tmp_path, coarse + GOOD))
    assert config.more_corpora == (Path("a"), Path("b"))
    assert (config.finest_key, config.finest_inter) == (130, 175)


def test_shipped_configurations_are_valid() -> None:
    configs = Path(__file__).parents[2] / "configs"
    paths = sorted(configs.glob("generator_*.toml"))
    assert len(paths) >= 4
    for path in paths:
        assert load_config(path).steps > 0


def test_tables_of_a_teacher_and_of_the_adversarial_stage(tmp_path: Path) -> None:
    more = '[distillation]\nteacher = "big.onnx"\n[adversarial]\nweight = 0.01\nstart_step = 9\n'
    config = load_config(write(tmp_path, GOOD + more))
    assert config.distillation == Distillation(teacher=Path("big.onnx"), weight=10.0)
    assert config.adversarial == AdversarialSettings(weight=0.01, start_step=9)
    without = load_config(write(tmp_path, GOOD))
    assert without.distillation is None
    assert without.adversarial.weight == 0


def test_blocks_have_widths_of_their_own(tmp_path: Path) -> None:
    own = GOOD.replace("stem_channels = 8", "stem_channels = 8\nbody_hidden = [24, 16]")
    config = load_config(write(tmp_path, own))
    assert config.network.body_widths == (24, 16)
    assert hash(config.network)
    assert load_config(write(tmp_path, GOOD)).network.body_widths == (96, 96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz = 3", "unknown settings stepz; known: .*steps"),
        ("crop = 100", "crop = 100"),
        ("crop = 56", "crop = 56"),
        ('crop = "192"', "config"),
        ("batch = 0", "batch = 0"),
        ("learning_rate = 0.0", "learning_rate"),
        ("learning_rate = nan", "learning_rate"),
        ("ema_decay = 1.0", "ema_decay"),
        ("corpus = 3", "corpus is 3"),
        ("loss = 3", "expected a table"),
        ("[loss]\nalexx = 1", "unknown settings alexx"),
        ("[loss]\nvgg_every = 0", "vgg_every = 0"),
        ("[network]\nstem = 1", "unknown settings stem"),
        ("[network]\nbody_hidden = 8", "body_hidden is 8, expected a list"),
        ('[network]\nbody_hidden = ["8", true]', "expected a list of whole numbers"),
        ("[network]\nbody_hidden = [8]", "body_hidden = .*for each block"),
        ("[network]\ndeep_blocks = 1\ndeep_hidden = [0]", "deep_hidden = .*a positive number"),
        ("network = 3", "expected a table"),
        ("[distillation]\nweight = 1.0", "teacher"),
        ("[distillation]\nteacher = 1", "teacher is 1"),
        ('[distillation]\nteacher = "a"\nweight = 0.0', "weight = 0.0"),
        ("distillation = 3", "expected a table"),
        ("[adversarial]\nweight = -1.0", "weight = -1.0"),
        ('more_corpora = "a"', "expected a list of paths"),
        ("more_corpora = [1]", "expected a list of paths"),
        ("finest_key = 256", "finest_key = 256"),
        ("finest_inter = -1", "finest_inter = -1"),
        ("narrow_from = 3", "narrow_from is 3"),
        ("prune_from = 3", "prune_from is 3"),
        ("widen_from = 3", "widen_from is 3"),
        ('widen_from = "a"\nstart_from = "b"', "one of them"),
        ("seconds = -1", "seconds = -1"),
        ('narrow_from = "a"\nstart_from = "b"', "one of them"),
        ('precision = "float8"', "expected one of float32, bfloat16"),
        ("steps = = 1", "config"),
    ],
)
def test_mistakes_are_config_errors(tmp_path: Path, change: str, message: str) -> None:
    text = 'corpus = "corpus"\nrun_folder = "run"\n'
    if change.startswith("corpus"):
        text = 'run_folder = "run"\n'
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text + change + "\n"))


def test_missing_settings_and_files_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_folder"):
        load_config(write(tmp_path, 'corpus = "corpus"'))
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_config(tmp_path / "nothing.toml")
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.toml")


def test_constructors_check_too() -> None:
    with pytest.raises(ConfigError, match="crop"):
        TrainConfig(corpus=Path(), run_folder=Path(), crop=65)
    with pytest.raises(ConfigError, match="vgg_size"):
        LossWeights(vgg_size=16)
