"""Golden vectors of the original SViTT code (fixtures/golden/README.md), as inputs and outputs of this port."""

import json
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svitt import SViTTConfig, SViTTTextConfig, SViTTVisionConfig
from svitt.conversion import convert_state_dict

torch.set_num_threads(1)  # tensors are tiny: a second thread costs more than it saves

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
