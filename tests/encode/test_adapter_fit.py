"""Fitting adapters: on a network whose best adapter is known, and through real decodes."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from encode_media import TICK, LumaJudge

torch = pytest.importorskip("torch")

from hybridprompt.encode.adapter_fit import AdapterFitter, LaterFrame, arriving  # noqa: E402
from hybridprompt.encode.gate import GopDecision, GopGate, make_adapter_fitter, make_fitter  # noqa: E402
from hybridprompt.encode.gop import Gop  # noqa: E402
from hybridprompt.encode.operator.decode_operator import DecodeOperator  # noqa: E402
from hybridprompt.encode.operator.frame_map import FrameMap, cell_grid  # noqa: E402
from hybridprompt.encode.settings import PRESETS, AdapterSettings  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402
from hybridprompt.generator.base import Planes  # noqa: E402
from hybridprompt.generator.fake import FakeGenerator  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.generator.onnx_generator import OnnxGenerator  # noqa: E402
from hybridprompt.generator.torch_weights import network_of  # noqa: E402
from hybridprompt.prompt.sections import Adapter, parse_sections  # noqa: E402
from hybridprompt.prompt.syntax import decode_prompt  # noqa: E402
from hybridprompt.train.export import export  # noqa: E402
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop  # noqa: E402
from hybridprompt.video.picture import Picture  # noqa: E402

WIDTH, HEIGHT, QUANTISER = 256, 128, 120
CONFIG = NetworkConfig(stem_channels=8, body_channels=16, body_blocks=1, tail_blocks=1)
SHORT = AdapterSettings(frames=4, steps=60, joint_steps=30, crops=2, crop_size=96, rate=0.3, joint_rate=0.2)
needs_weights = pytest.mark.skipif(not have_metric_weights(), reason="the weights of LPIPS are not installed")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> OnnxGenerator:
    """A network that changes pictures visibly."""
    folder: Path = tmp_path_factory.mktemp("adapter_fit")
    torch.manual_seed(3)
    network = GeneratorNetwork(CONFIG)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                scale = 0.25 if name == "head.weight" else 1.0
                parameter.normal_(0, scale / parameter[0].numel() ** 0.5)
    torch.save({"network": network.state_dict(), "config": CONFIG.as_dict(), "step": 0}, folder / "ema.pt")
    export(folder / "ema.pt", folder / "tiny.onnx")
    return OnnxGenerator((folder / "tiny.onnx").read_bytes(), name="tiny")


@pytest.fixture(scope="module")
def fitter(generator: OnnxGenerator) -> AdapterFitter:
    return AdapterFitter(network_of(generator.weights), SHORT)


def textured(seed: int = 1) -> Planes:
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(0, 25, (HEIGHT // 8, WIDTH // 8)), np.ones((8, 8)))
    y = np.clip(120 + coarse + rng.normal(0, 8, (HEIGHT, WIDTH)), 0, 255).astype(np.uint8)
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return y, chroma, chroma.copy()


def known_adapter(fitter: AdapterFitter, seed: int = 2) -> np.ndarray:
    """The residual is turned down, and other detail is in it."""
    values = np.zeros(fitter.adapted.adapter_length, np.int8)
    values[-2 * 24 : -24] = -9
    values[: 2 * CONFIG.stem_channels] = np.random.default_rng(seed).integers(-6, 7, 2 * CONFIG.stem_channels)
    return values


def made(generator: OnnxGenerator, planes: Planes, values: np.ndarray | None = None) -> Planes:
    chosen = generator if values is None else generator.adapted(values)
    strengths = np.ones((2, 4), np.float32)
    return chosen.generate(planes, quantiser=QUANTISER, strengths=strengths, block_size=64)


def off(found: Planes, wanted: Planes) -> float:
    return float(np.abs(found[0].astype(float) - wanted[0]).mean())


def moved_map(x: int, y: int, gain: float = 1.0) -> FrameMap:
    cells, half_cells = cell_grid(HEIGHT, WIDTH), cell_grid(HEIGHT // 2, WIDTH // 2)
    displacement = np.empty((2, HEIGHT, WIDTH), np.float16)
    displacement[0], displacement[1] = x, y
    return FrameMap(
        frame=5,
        displacement=displacement,
        gain_y=np.full((HEIGHT, WIDTH), gain, np.float16),
        gain_uv=np.full((HEIGHT // 2, WIDTH // 2), gain, np.float16),
        factors_y=np.ones((1, *cells), np.float16),
        factors_uv=np.ones((1, 2, *half_cells), np.float16),
    )


@needs_weights
def test_the_adapter_that_made_the_source_is_made_up_for(
    generator: OnnxGenerator, fitter: AdapterFitter
) -> None:
    base = textured()
    source = made(generator, base, known_adapter(fitter))
    values = fitter.fit(base, source, QUANTISER)
    assert values.dtype == np.int8
    before, after = off(made(generator, base), source), off(made(generator, base, values), source)
    assert after < 0.5 * before


@needs_weights
def test_same_seed_same_adapter(fitter: AdapterFitter) -> None:
    base, source = textured(), textured(4)
    first, again = (
        AdapterFitter(fitter.network, replace(SHORT, steps=6)).fit(base, source, QUANTISER) for _ in range(2)
    )
    other = AdapterFitter(fitter.network, replace(SHORT, steps=6, seed=2)).fit(base, source, QUANTISER)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@needs_weights
def test_what_was_fitted_last_is_remembered(fitter: AdapterFitter) -> None:
    base, source = textured(), textured(4)
    short = AdapterFitter(fitter.network, replace(SHORT, steps=2))
    first = short.fit(base, source, QUANTISER)
    assert short.fit(base, source, QUANTISER) is first
    assert short.fit(base, source, QUANTISER + 1) is not first
    assert short.fit(base, textured(5), QUANTISER) is not first


@needs_weights
@pytest.mark.parametrize("size", [(160, 120), (120, 160), (64, 64), (250, 66)])
def test_small_pictures_are_fitted_too(fitter: AdapterFitter, size: tuple[int, int]) -> None:
    def cut(planes: Planes) -> Planes:
        width, height = size
        y = np.tile(planes[0], (2, 1))[:height, :width]
        return y, *(np.tile(plane, (2, 1))[: height // 2, : width // 2] for plane in planes[1:])

    short = AdapterFitter(fitter.network, replace(SHORT, steps=4, crop_size=192))
    assert short.fit(cut(textured()), cut(textured(4)), QUANTISER).any()


@needs_weights
@pytest.mark.parametrize("shift", [(0, 0), (24, -8)])
def test_later_frames_have_a_say(
    generator: OnnxGenerator, fitter: AdapterFitter, shift: tuple[int, int]
) -> None:
    """The keyframe is right as it is; later frames, which come from elsewhere in it, want another adapter."""
    base, wanted = textured(), known_adapter(fitter)
    nothing = np.zeros_like(wanted)
    plain, other = made(generator, base), made(generator, base, wanted)

    def moved(planes: Planes) -> Planes:
        dx, dy = shift
        return tuple(
            np.roll(plane, (-dy // scale, -dx // scale), (0, 1))
            for plane, scale in zip(planes, (1, 2, 2), strict=True)
        )

    later = [LaterFrame(moved(plain), moved(other), moved_map(*shift))] * 8
    values = fitter.refine(nothing, base, plain, QUANTISER, later)
    assert off(made(generator, base, values), other) < 0.6 * off(plain, other)
    # Without any, the keyframe has its way.
    alone = fitter.refine(nothing, base, plain, QUANTISER, ())
    assert off(made(generator, base, alone), other) > 0.85 * off(plain, other)


def test_what_arrives_is_what_the_decode_operator_says() -> None:
    """On a crop alone; and nothing arrives from outside of what was generated."""
    rng = np.random.default_rng(0)
    change = [
        torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32))
        for shape in ((HEIGHT, WIDTH), (2, 64, 128))
    ]
    frame_map = moved_map(0, 0)
    noise = rng.normal(0, 2, (2, HEIGHT // 8, WIDTH // 8)).repeat(8, 1).repeat(8, 2)
    frame_map = replace(
        frame_map,
        displacement=(noise + np.array([14.25, -6.5])[:, None, None]).astype(np.float16),
        gain_y=rng.random((HEIGHT, WIDTH)).astype(np.float16),
        gain_uv=rng.random((HEIGHT // 2, WIDTH // 2)).astype(np.float16),
    )
    whole = DecodeOperator(frame_map)(*change)
    place = slice(40, 88), slice(96, 144)
    region = slice(16, 112), slice(80, 184)
    cut = change[0][None, 16:112, 80:184], change[1][:, 8:56, 40:92]
    y, uv = arriving(cut, frame_map, place, region)
    assert torch.allclose(y[0, 0], whole[0][40:88, 96:144], atol=1e-4)
    assert torch.allclose(uv[0], whole[1][:, 20:44, 48:72], atol=1e-4)
    beyond, _ = arriving(cut, moved_map(WIDTH, 0), place, region)
    assert not beyond.any()


# --------------------------------------------------------------------------------------- through real decodes


@pytest.fixture(scope="module")
def still() -> list[Picture]:
    return [Picture(*textured(), i, TICK) for i in range(20)]


@pytest.fixture(scope="module")
def packets(still: list[Picture]) -> list[CodedPacket]:
    settings = Av1Settings(
        width=WIDTH, height=HEIGHT, frame_rate=Fraction(30), time_base=TICK, crf=20, preset=10
    )
    return encode_gop(still, settings)


def gate_of(
    packets: list[CodedPacket], source: Planes, generator: OnnxGenerator, settings: AdapterSettings | None
) -> tuple[GopGate, set[int]]:
    """And the frames whose source it asks for."""
    asked: set[int] = set()

    def picture(frame: int) -> Picture:
        asked.add(frame)
        return Picture(*source, frame, TICK)

    gop = Gop(packets, None, TICK, picture)
    adapter_fitter = make_adapter_fitter(settings, generator)
    gate = GopGate(gop, generator, LumaJudge(), PRESETS["fast"], 32, adapter_fitter=adapter_fitter)
    return gate, asked


def adapter_of(decision: GopDecision) -> Adapter | None:
    (anchor,) = decision.anchors
    return parse_sections(decode_prompt(anchor.prompt_bytes)).adapter


@needs_weights
def test_prompts_adapt_the_generator_where_that_pays(
    generator: OnnxGenerator, fitter: AdapterFitter, packets: list[CodedPacket]
) -> None:
    base = GopGate(Gop(packets, None, TICK, lambda f: None), generator, LumaJudge(), PRESETS["fast"], None)
    (keyframe,) = base.gop.shown({}, [0], generators=None, on_warning=print)
    wanted = made(generator, keyframe[1].copied().planes, known_adapter(fitter))
    plain, _ = gate_of(packets, wanted, generator, None)
    gate, asked = gate_of(packets, wanted, generator, SHORT)
    without, decision = plain.decide(), gate.decide()
    assert adapter_of(without) is None
    adapter = adapter_of(decision)
    assert adapter is not None
    assert adapter.values.any()
    assert decision.distance < 0.7 * without.distance
    assert asked <= set(gate.wanted_frames())
    assert set(gate.wanted_frames()) > set(plain.wanted_frames())


@needs_weights
def test_an_adapter_that_does_not_pay_is_left_out(
    generator: OnnxGenerator, packets: list[CodedPacket]
) -> None:
    """What the generator makes is what the source is."""
    (keyframe,) = Gop(packets, None, TICK, lambda f: None).shown({}, [0], generators=None, on_warning=print)
    planes = keyframe[1].copied().planes
    (told,) = Gop(packets, None, TICK, lambda f: None).candidates(None)
    wanted = generator.generate(
        planes, quantiser=told.base_q_idx, strengths=np.ones((2, 4), np.float32), block_size=64
    )
    gate, _ = gate_of(packets, wanted, generator, replace(SHORT, steps=10, joint_steps=5))
    assert adapter_of(gate.decide()) is None


@needs_weights
def test_the_adapter_that_others_were_coded_against_is_tried(
    generator: OnnxGenerator, fitter: AdapterFitter, packets: list[CodedPacket]
) -> None:
    (keyframe,) = Gop(packets, None, TICK, lambda f: None).shown({}, [0], generators=None, on_warning=print)
    (told,) = Gop(packets, None, TICK, lambda f: None).candidates(None)
    given = Adapter(known_adapter(fitter))
    wanted = generator.adapted(given.values).generate(
        keyframe[1].copied().planes,
        quantiser=told.base_q_idx,
        strengths=np.ones((2, 4), np.float32),
        block_size=64,
    )
    gate, _ = gate_of(packets, wanted, generator, replace(SHORT, steps=2, joint_steps=2))
    gate.given_adapter = given
    assert adapter_of(gate.decide()) == given


@pytest.mark.parametrize("size", [(48, 32), (62, 200)])
def test_pictures_too_small_to_fit_are_searched(generator: OnnxGenerator, size: tuple[int, int]) -> None:
    width, height = size
    pictures = [
        Picture(
            np.full((height, width), 90, np.uint8),
            *[np.full((height // 2, width // 2), 128, np.uint8)] * 2,
            i,
            TICK,
        )
        for i in range(3)
    ]
    settings = Av1Settings(
        width=width, height=height, frame_rate=Fraction(30), time_base=TICK, crf=40, preset=10
    )
    gop = Gop(encode_gop(pictures, settings), None, TICK, lambda f: replace(pictures[f], y=pictures[f].y + 9))
    fitters = make_fitter(PRESETS["medium"].fit), make_adapter_fitter(SHORT, generator)
    assert GopGate(gop, generator, LumaJudge(), PRESETS["fast"], 32, *fitters).decide().base_distance > 5


def test_no_fitter_for_other_generators_or_without_weights(generator: OnnxGenerator, monkeypatch) -> None:
    assert make_adapter_fitter(None, generator) is None
    assert make_adapter_fitter(SHORT, FakeGenerator()) is None
    if have_metric_weights():
        assert make_adapter_fitter(SHORT, generator) is not None
    monkeypatch.setattr("hybridprompt.evaluate.weights.have_metric_weights", lambda: False)
    assert make_adapter_fitter(SHORT, generator) is None
