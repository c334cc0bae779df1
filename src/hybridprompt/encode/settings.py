"""Settings of an encode, and what the presets stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from hybridprompt.errors import ConfigError

GATE_UNIT = 4
"""The gates that the encoder writes have strengths in steps of 1 / GATE_UNIT."""

GATE_LEVELS = 9
"""As many of them: 0 to 2."""

PresetName = Literal["fast", "medium", "slow"]
ModeName = Literal["enhance", "replace"]
CodecName = Literal["av1", "h265", "h264"]
TuneName = Literal["vq", "psnr", "ssim"]
PromptsName = Literal["gop", "keyframe", "blind", "none"]

SVT_TUNES: dict[TuneName, int] = {"vq": 0, "psnr": 1, "ssim": 2}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to fit.

    frames: frames of a GOP that supervise, beside each anchor's own; 0 leaves only the anchors' own, so that
    what comes later has no say.  block_log2: of the gates.  steps: of gradient descent for the keyframe
    alone, then joint_steps for all anchors together.  crops, crop_size: what one step looks at, luma samples.
    seed: of all random choices.
    """

    frames: int = 10
    block_log2: int = 5
    steps: int = 100
    joint_steps: int = 60
    crops: int = 4
    crop_size: int = 224
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How to fit an adapter of the generator's weights.

    frames: frames of a GOP that supervise, beside the keyframe; 0 leaves that alone.  steps: of gradient
    descent on the keyframe, then joint_steps on all of those frames.  rate, joint_rate: of learning, in the
    adapter's integers.  crops, crop_size: what one step looks at, luma samples.  seed: of all random choices.
    """

    frames: int = 10
    steps: int = 150
    joint_steps: int = 60
    rate: float = 0.12
    joint_rate: float = 0.06
    crops: int = 2
    crop_size: int = 192
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much work an encode spends.

    svt_preset: SVT-AV1's own preset. sample_frames: frames of a GOP on which prompts are judged. judge_scale:
    the judge sees pictures scaled by 1/judge_scale. Where strengths are searched for, quantiser_offsets: what
    the generator may be told, relative to the actual base_q_idx; key_levels, later_levels: strengths that a
    block of the keyframe, or of a later anchor, may take, in units of 1 / GATE_UNIT; strength_price: the
    share of a block's distance that strength 1 must gain to be worth it; joint_anchors: decide all anchors of
    a GOP at once, in a fixed number of decodes, instead of one by one. passes: beyond the first, each lets a
    third of the GOPs be encoded once more for the target. quick: leave a rate a little off where meeting it
    would take many more encodes. fit: how strengths are fitted, where torch and the metric weights are at
    hand; without them, or where it is None, they are searched for. adapter: how adapters are fitted, where
    the same is at hand; None is without. prompts: see EncodeSettings. key_lambda_factors: of the keyframe's
    Lagrange multiplier; of several, each GOP gets what serves it best. nal_preset: x264's and x265's own
    preset. still_offsets: of the CRF of mode replace's stills, from the usual one; of several, a GOP gets the
    first that serves it better than the first of all. alternations: how often a GOP of mode replace is
    encoded anew against what its prompt generates. tries_scales: code fewer samples than the source has where
    that serves the rate better; see `scale`.
    """

    svt_preset: int
    sample_frames: int
    judge_scale: int
    quantiser_offsets: tuple[int, ...]
    key_levels: tuple[int, ...]
    later_levels: tuple[int, ...]
    joint_anchors: bool
    passes: int
    key_lambda_factors: tuple[float, ...]
    quick: bool = False
    nal_preset: str = "slow"
    still_offsets: tuple[float, ...] = (0.0,)
    alternations: int = 0
    fit: FitSettings | None = None
    adapter: AdapterSettings | None = None
    tries_scales: bool = False
    prompts: PromptsName = "gop"
    strength_price: float = 0.02

    def with_prompts(self, prompts: PromptsName) -> Preset:
        """The preset whose prompts know as much of the source as ``prompts`` says."""
        fit, adapter = self.fit, self.adapter
        if prompts == "keyframe":
            fit = fit and replace(fit, frames=0)
            adapter = adapter and replace(adapter, frames=0)
        elif prompts in ("blind", "none"):
            fit = adapter = None
        return replace(self, prompts=prompts, fit=fit, adapter=adapter)


PRESETS: dict[PresetName, Preset] = {
    "fast": Preset(
        svt_preset=5,
        sample_frames=3,
        judge_scale=1,
        quantiser_offsets=(0,),
        key_levels=(2, 4, 6),
        later_levels=(2, 4),
        joint_anchors=True,
        passes=2,
        key_lambda_factors=(0.5,),
        quick=True,
        still_offsets=(0.0, 8.0),
    ),
    "medium": Preset(
        svt_preset=5,
        sample_frames=8,
        judge_scale=1,
        quantiser_offsets=(0,),
        key_levels=(2, 4, 6),
        later_levels=(1, 2),
        joint_anchors=False,
        passes=2,
        key_lambda_factors=(0.5, 1.0, 0.25),
        still_offsets=(0.0, 8.0, -5.0),
        fit=FitSettings(),
        adapter=AdapterSettings(),
        tries_scales=True,
    ),
    "slow": Preset(
        svt_preset=3,
        sample_frames=12,
        judge_scale=1,
        quantiser_offsets=(0, -32, 32),
        key_levels=(2, 4, 6),
        later_levels=(1, 2),
        joint_anchors=False,
        passes=3,
        key_lambda_factors=(0.5, 1.0, 0.25),
        still_offsets=(0.0, 8.0, -5.0),
        alternations=3,
        fit=FitSettings(frames=16, steps=200, joint_steps=150),
        adapter=AdapterSettings(steps=300, joint_steps=150, crops=4),
        tries_scales=True,
    ),
}

RATE_TOLERANCE = 0.03
LEGACY_KEYFRAME_BYTES = (200, 1_000_000)
DEFAULT_BUFFER_SECONDS = 4.0
MINI_GOP_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """What to encode to.  Exactly one of ``bitrate_kbps`` (the whole video track), ``crf`` and ``quality``
    (mean distance from the source in LPIPS-Alex, prompts applied) is given.

    max_kbps: no run of GOPs, with the sound beside them, may exceed it by more than ``buffer_seconds`` of it
    (4 unless given); None is no limit, and there is no buffer then.  The tables of the MP4 do not count.
    anchor_interval: frames between anchors inside a GOP, a multiple of 32 (the mini-GOP of SVT-AV1's random
    access structure, whose base pictures alone can be anchors); None leaves only the keyframe. generator: the
    name of a shipped size, or an ONNX file; None is the default. tune: what SVT-AV1 aims at; "vq", visual
    quality, is mostly nearer to the source in LPIPS-Alex, "psnr", its own default, in LPIPS-VGG and PSNR.
    prompts: what they are fitted to: "gop", frames of the whole GOP, through the codec's decoding;
    "keyframe", its own picture, and then there are no other anchors; "blind" generates the keyframe
    everywhere alike; "none" generates nothing.  Prompts are kept only where real decodes of the GOP gain.
    mode: "enhance" refines a stream that is complete without prompts; "replace" has the keyframes in
    prompts only.  codec: of the stream; with "h265" and "h264" the CRF is x265's and x264's, 10 to 51.
    scale: of what is coded, in width and height, to the source; None lets a preset that tries scales choose
    one where a rate is given in mode enhance and AV1, and is 1 otherwise.  Distances, the quality too, are
    from the scaled source then.
    legacy_keyframe_bytes: mode replace only, about how many a keyframe may take that players without prompts
    show in place of grey.
    Raises ConfigError.
    """

    bitrate_kbps: float | None = None
    crf: float | None = None
    quality: float | None = None
    max_kbps: float | None = None
    buffer_seconds: float | None = None
    gop_seconds: float = 4.0
    preset: PresetName = "medium"
    anchor_interval: int | None = 32
    generator: Path | None = None
    tune: TuneName = "vq"
    prompts: PromptsName = "gop"
    mode: ModeName = "enhance"
    codec: CodecName = "av1"
    legacy_keyframe_bytes: int | None = None
    scale: Fraction | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check_codec()
        if sum(target is not None for target in (self.bitrate_kbps, self.crf, self.quality)) != 1:
            raise ConfigError("give a bitrate, a CRF or a quality, exactly one of them")
        if self.bitrate_kbps is not None and not 5 <= self.bitrate_kbps <= 100_000:
            raise ConfigError(f"bitrate is {self.bitrate_kbps:g} kbit/s, expected 5 to 100000")
        if self.quality is not None and not 0.01 <= self.quality <= 0.8:
            raise ConfigError(f"quality is {self.quality:g}, expected an LPIPS distance from 0.01 to 0.8")
        if self.max_kbps is not None and not (self.bitrate_kbps or 5) <= self.max_kbps <= 1_000_000:
            low = f"the bitrate, {self.bitrate_kbps:g}," if self.bitrate_kbps else "5"
            raise ConfigError(f"maximum rate is {self.max_kbps:g} kbit/s, expected {low} to 1000000")
        if self.buffer_seconds is not None:
            if self.max_kbps is None:
                raise ConfigError("a buffer goes with a maximum rate; give both")
            if not 0.1 <= self.buffer_seconds <= 600:
                raise ConfigError(f"buffer is {self.buffer_seconds:g} s, expected 0.1 to 600")
        if self.scale is not None and not Fraction(1, 8) <= self.scale <= 1:
            raise ConfigError(f"scale is {self.scale}, expected a fraction from 1/8 to 1")
        if not 0.5 <= self.gop_seconds <= 20:
            raise ConfigError(f"GOP length is {self.gop_seconds:g} s, expected 0.5 to 20")
        if self.preset not in PRESETS:
            raise ConfigError(f"preset is {self.preset!r}, expected one of {', '.join(PRESETS)}")
        if self.tune not in SVT_TUNES:
            raise ConfigError(f"tune is {self.tune!r}, expected one of {', '.join(SVT_TUNES)}")
        check_anchor_interval(self.anchor_interval)

    def _check_codec(self) -> None:
        for name, value, known in (
            ("mode", self.mode, get_args(ModeName)),
            ("codec", self.codec, get_args(CodecName)),
            ("prompts", self.prompts, get_args(PromptsName)),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        if self.crf is not None:
            if self.codec == "av1" and not (1 <= self.crf <= 70 and self.crf % 0.25 == 0):
                raise ConfigError(f"CRF is {self.crf:g}, expected 1 to 70 in steps of 0.25")
            if self.codec != "av1" and not 10 <= self.crf <= 51:
                raise ConfigError(f"CRF of {self.codec} is {self.crf:g}, expected 10 to 51")
        if self.legacy_keyframe_bytes is not None:
            if self.mode != "replace":
                raise ConfigError("a legacy keyframe stands for one that is replaced: mode replace only")
            low, high = LEGACY_KEYFRAME_BYTES
            if not low <= self.legacy_keyframe_bytes <= high:
                raise ConfigError(
                    f"legacy keyframe of {self.legacy_keyframe_bytes} bytes, expected {low} to {high}"
                )

    @property
    def effort(self) -> Preset:
        return PRESETS[self.preset].with_prompts(self.prompts)

    @property
    def chooses_scale(self) -> bool:
        """Whether the scale is to be found out."""
        usual = (self.mode, self.codec) == ("enhance", "av1") and self.bitrate_kbps is not None
        return self.scale is None and usual and self.effort.tries_scales


def check_anchor_interval(frames: int | None) -> None:
    """Raise ConfigError unless ``frames`` is None or a multiple of MINI_GOP_FRAMES."""
    if frames is not None and (frames < MINI_GOP_FRAMES or frames % MINI_GOP_FRAMES):
        raise ConfigError(
            f"anchor interval is {frames} frames, expected a multiple of {MINI_GOP_FRAMES} or off"
        )
