"""Golden vectors of the original SViTT code (fixtures/golden/README.md), as inputs and outputs of this port."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from svitt.conversion.original import convert_state_dict

torch.set_num_threads(1)  # tensors are tiny: a second thread costs more than it saves

ROOT = Path(__file__).parent.parent  # of the repository
GOLDEN = Path(__file__).parent / "fixtures" / "golden"


class GoldenCase:
    def __init__(self, name: str):
        self.folder = GOLDEN / name
        self.json = json.loads((self.folder / "config.json").read_text())
        self.expected = self.json.get("expected", {})

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "outputs.safetensors")

    def series(self, name: str, of: dict[str, torch.Tensor] | None = None) -> list[torch.Tensor]:
        """`name.0`, `name.1`, … of the outputs (or of another dictionary)."""
        tensors, found = self.outputs if of is None else of, []
        while f"{name}.{len(found)}" in tensors:
            found.append(tensors[f"{name}.{len(found)}"])
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        """The original's weights under our names."""
        path = self.folder / self.json["weights"].removeprefix("config-own ")
        prefix = self.json.get("weights_prefix", "")
        return convert_state_dict(
            {key.removeprefix(prefix): value for key, value in load_file(path).items() if key.startswith(prefix)}
        )

    def vision_config(self, **overrides) -> SViTTVisionConfig:
        settings = dict(self.json.get("beit_config") or self.json["config"]["vit_config"])
        if "config" in self.json:
            settings |= {"sparse_random_attn": None} | self.json["config"]["vision_encoder_args"]
            settings["num_frames"] = self.json["config"]["video_input"]["num_frames"]
        else:
            settings["num_frames"] = self.json["num_frames"]
        return SViTTVisionConfig(**_known(SViTTVisionConfig, settings) | {"attn_mask_padding": False} | overrides)

    def text_config(self, **overrides) -> SViTTTextConfig:
        settings = {"token_keep_rate": 1.0} | dict(self.json.get("bert_config") or self.json["config"]["bert_config"])
        settings |= self.json.get("config", {}).get("text_encoder_args") or {}
        settings |= {"bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "attn_mask_padding": False}
        return SViTTTextConfig(**_known(SViTTTextConfig, settings) | overrides)

    def config(self, text_overrides: dict | None = None, **overrides) -> SViTTConfig:
        settings = self.json["config"]
        weights = {name: weight for name, weight in settings["loss_weight"].items()}
        return SViTTConfig(
            vision_config=self.vision_config(**overrides),
            text_config=self.text_config(**(text_overrides or {})),
            decoder_config={"num_hidden_layers": settings["decoder_num_hidden_layers"]},
            loss_weight=weights,
            **{field: settings[field] for field in ("embed_dim", "temp", "itm_hard_neg", "mlm_prob")},
        )

    def load(self, model_class, config):
        """A model with the case's weights, all of which must find their place."""
        model = model_class(config)
        missing, unexpected = model.load_state_dict(self.weights(), strict=False)
        assert not unexpected, unexpected
        assert not missing, missing
        model.tie_weights()
        return model


def _known(config_class, settings: dict) -> dict:
    return {field: value for field, value in settings.items() if field in config_class.__dataclass_fields__}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5):
    """|actual - expected| <= tolerance * (1 + max|expected|), as fixtures/golden/README.md recommends."""
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs().max().item() if actual.numel() else 0.0
    limit = tolerance * (1 + expected.double().abs().max().item())
    assert difference <= limit, f"off by {difference:.2e}, limit {limit:.2e}"


@pytest.fixture(scope="session")
def golden():
    cases = {}
    return lambda name: cases.setdefault(name, GoldenCase(name))


@pytest.fixture(scope="session", name="assert_close")
def assert_close_fixture():
    return assert_close


# Videos --------------------------------------------------------------------------------------------------------------

FORMATS = {  # name → codec, pixel format, options of the container and of the codec
    "end.mp4": ("libx264", "yuv420p", {}, {"g": "12"}),
    "start.mp4": ("libx264", "yuv420p", {"movflags": "faststart"}, {"bf": "3"}),
    "fragments.mp4": ("libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}, {"g": "12"}),
    "clip.mkv": ("libx264", "yuv420p", {}, {}),
    "clip.webm": ("libvpx-vp9", "yuv420p", {}, {"deadline": "realtime", "cpu-used": "8"}),
    "clip.avi": ("mpeg4", "yuv420p", {}, {}),
    "clip.gif": ("gif", "rgb8", {}, {}),
}


def _write_video(
    path, codec=None, pixel_format="yuv420p", container=None, options=None, *, num_frames=24, size=(64, 48), rotation=0,
    times=None,
):  # fmt: skip
    """Frames of uniform grey over noise, so that every frame is another and large enough to be cut.

    `times` in milliseconds, 40 of them per frame by default. A file's name alone says how, if it is one of `FORMATS`.
    """
    if codec is None:
        codec, pixel_format, container, options = FORMATS[path.name]
    width, height = size
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    with av.open(str(path), "w", options=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(num_frames):
            pixels = (np.roll(noise, 2 * index, axis=1) + 190 * index // num_frames).astype(np.uint8)
            pixels[: height // 4, : width // 4] = (250, 0, 0)  # a red corner shows which way is up
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def _decode_all(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="session")
def write_video():
    return _write_video


@pytest.fixture(scope="session")
def decode_all():
    """PyAV's own frames, all of them, (T, H, W, 3) uint8, not rotated."""
    return _decode_all


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Paths of 24 frames in each of `FORMATS`, by name."""
    folder = tmp_path_factory.mktemp("videos")
    return {name: _write_video(folder / name) for name in FORMATS}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder with `data` (16, 8 and 14 clips) and an untrained `model`."""
    folder = tmp_path_factory.mktemp("demo")
    sizes = ["--train", "16", "--val", "8", "--test", "14"]
    subprocess.run([sys.executable, ROOT / "examples/make_demo_dataset.py", folder / "data", *sizes], check=True)
    model = [ROOT / "examples/make_tiny_model.py", folder / "data/train.json", folder / "model"]
    subprocess.run([sys.executable, *model], check=True)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kB, or mounts it anew with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes):
        options = f"{'remount,' if folder.is_mount() else ''}rw,size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


# Object stores --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server():
    """The address of an S3 server, moto's in its own process, which the environment names; and fsspec's files there."""
    pytest.importorskip("moto")
    s3fs = pytest.importorskip("s3fs")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": url, **keys}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        for _ in range(300):
            time.sleep(0.1)
            try:
                urllib.request.urlopen(f"{url}/moto-api/")
                break
            except OSError:
                assert process.poll() is None
        yield url, s3fs.S3FileSystem(use_listings_cache=False)
    s3fs.S3FileSystem.clear_instance_cache()
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(server):
    """The URL of an empty bucket."""
    name = f"bucket-{uuid.uuid4()}"
    server[1].mkdir(name)
    return f"s3://{name}"
