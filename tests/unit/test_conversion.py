"""Names, positions, safe reading, original checkpoints and pretrained towers."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitModel,
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizer,
)

from svitt import SViTTForVideoTextRetrieval
from svitt.conversion.original import convert_state_dict, decoder_from_fusion_layers, infer_config
from svitt.conversion.positions import resize_relative_position_bias
from svitt.conversion.towers import init_from_towers
from svitt.errors import InputError

from ..conftest import GOLDEN


def original_weights(task: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"_weights/{task}_tiny.safetensors")


def converted(task: str) -> dict[str, torch.Tensor]:
    return convert_state_dict(original_weights(task))


def original_config(**changes) -> dict:
    """A training configuration as the original saves it: sizes of BERT are in a file elsewhere."""
    config = json.loads((GOLDEN / "case06_pretrain" / "config.json").read_text())["config"]
    config = {field: value for field, value in config.items() if field not in ("vit_config", "bert_config")}
    return {**config, "bert_config": "configs/config_bert.json", **changes}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer(str(GOLDEN / "case10b_tokenizer" / "vocab.txt")).save_pretrained(folder)
    return folder


# ---- Names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimiser.step": torch.zeros(1)}, "optimiser.step"),
        ({"text_encoder.embeddings.LayerNorm.bias": torch.zeros(1)}, "two names.*text_encoder.bert.embeddings"),
    ],
)
def test_names_that_are_unknown_or_double_are_an_error(changes, words):
    with pytest.raises(InputError, match=words):
        convert_state_dict(original_weights("pretrain") | changes)


def downstream_sources(original: dict, run: dict) -> dict:
    """The pre-training key behind each downstream parameter of a golden run, according to the port."""
    weights = convert_state_dict(original)
    if run["kind"] == "vqa" and not run["options"].get("evaluate"):
        weights |= decoder_from_fusion_layers(weights, fusion_layer=9)
    key_of = {float(value): key for key, value in reversed(original.items())}
    ours = {name: key_of[float(value)] for name, value in weights.items()}
    renamed = {key: next(iter(convert_state_dict({key: torch.zeros(1)})), None) for key in run["loaded_from"]}
    return {key: ours.get(renamed[key]) for key in run["loaded_from"]}


@pytest.mark.parametrize(
    "run",
    ["retrieval_finetune_T4", "vqa_finetune_T4", "pretrain_expand_T4", "retrieval_evaluate_T2", "vqa_evaluate_T2"],
)
def test_downstream_models_start_from_the_keys_of_the_original(run):
    golden = json.loads((GOLDEN / "case13_checkpoint_keys" / "config.json").read_text())["expected"]
    original = {key: torch.tensor(float(number)) for number, key in enumerate(sorted(golden["pretrain_keys"]))}
    head, bert = "text_encoder.cls.predictions", "text_encoder.bert.embeddings.word_embeddings.weight"
    original |= {f"{head}.decoder.weight": original[bert], f"{head}.decoder.bias": original[f"{head}.bias"]}
    run = golden["runs"][run]
    assert downstream_sources(original, run) == run["loaded_from"]


# ---- Positions


def test_space_and_time_are_resized_together(assert_close):
    """Decision 21: each temporal offset as if it were a table for images, then the offsets by nearest neighbour."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3 * 49 + 3, 2, generator=generator)
    actual = resize_relative_position_bias(table, (2, 4, 4), (4, 6, 6))
    frames = [torch.cat([table[49 * offset : 49 * (offset + 1)], table[-3:]]) for offset in range(3)]
    frames = [resize_relative_position_bias(frame, (1, 4, 4), (1, 6, 6))[:-3] for frame in frames]
    nearest = [offset * 3 // 7 for offset in range(7)]
    assert_close(actual, torch.cat([*(frames[offset] for offset in nearest), table[-3:]]))


def test_a_table_of_another_grid_is_an_error():
    with pytest.raises(InputError, match="2 frames of 4 x 4 patches has 150 rows, this one has 52"):
        resize_relative_position_bias(torch.zeros(52, 4), (2, 4, 4), (4, 4, 4))


# ---- Original checkpoints


def test_configuration_of_an_original_checkpoint():
    config = infer_config(
        converted("pretrain"), original_config(), text_config={"num_attention_heads": 4, "mask_token_id": 4}
    )
    vision, text = config.vision_config, config.text_config
    # What the weights do not tell: they would not fit into other sizes.
    assert (vision.num_attention_heads, vision.sparse_local_attn, vision.sparse_random_attn) == (4, 1, 2)
    assert (text.token_keep_rate, text.token_drop_loc) == (0.5, [2])
    assert (config.temp, config.mlm_prob) == (0.07, 0.5)
    assert not vision.attn_mask_padding and not text.attn_mask_padding


def test_what_the_original_does_where_its_configuration_says_nothing():
    """Dense and without dropping; in fusion, the published `joint_encoder_args` are never read (decision 5)."""
    silent = original_config(vision_encoder_args={}, text_encoder_args={}, joint_encoder_args={"token_keep_rate": 0.1})
    config = infer_config(converted("retrieval"), silent, text_config={"num_attention_heads": 4})
    vision, text = config.vision_config, config.text_config
    assert vision.sparse_random_attn is None and vision.token_keep_rate == 1 and vision.token_drop_loc == [3]
    assert text.token_keep_rate == 1
    # Question answering reads questions in multimodal mode, where the original drops nothing whatever is configured.
    config = infer_config(converted("vqa"), original_config(), text_config={"num_attention_heads": 4})
    assert config.text_config.token_keep_rate == 1
    assert (config.decoder_config.num_hidden_layers, config.decoder_config.num_attention_heads) == (3, 4)


def test_sizes_without_a_configuration(caplog):
    weights, heads = converted("retrieval"), {"num_attention_heads": 4}
    vision = {"num_frames": 3, "image_size": 32}
    config = infer_config(weights, vision_config=vision, text_config=heads)
    SViTTForVideoTextRetrieval(config).load_state_dict(weights)
    assert "no configuration" in caplog.text
    with pytest.raises(InputError, match="num_attention_heads"):
        infer_config(weights, vision_config=vision)
    with pytest.raises(InputError, match="SViTTVisionConfig has no field keep_rate"):
        infer_config(weights, vision_config={"keep_rate": 0.5})


# ---- Towers

SIZE = dict(num_attention_heads=2, intermediate_size=64)
BEIT = dict(**SIZE, hidden_size=32, num_hidden_layers=3, image_size=32, patch_size=8)
BERT = dict(**SIZE, hidden_size=24, num_hidden_layers=4, vocab_size=200)
DENSE = dict(sparse_random_attn=None, token_keep_rate=1.0)
BEIT_KINDS = {
    "relative": dict(use_relative_position_bias=True),
    "shared": dict(use_shared_relative_position_bias=True),
    "own and shared": dict(use_relative_position_bias=True, use_shared_relative_position_bias=True),
    "absolute": dict(use_absolute_position_embeddings=True, use_mean_pooling=False, layer_norm_eps=1e-6),
    "both": dict(use_absolute_position_embeddings=True, use_relative_position_bias=True),
    "no positions": {},
    "no layer scale": dict(use_relative_position_bias=True, layer_scale_init_value=0.0),
    "mask token": dict(use_relative_position_bias=True, use_mask_token=True),
}


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros, such as bias tables, would hide mistakes
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory, tokenizer_folder):
    folder = tmp_path_factory.mktemp("bert")
    randomise(BertModel(BertConfig(**BERT))).save_pretrained(folder)
    BertTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", BEIT_KINDS)
def test_one_frame_gives_the_states_of_beit(kind, tmp_path, bert_folder, assert_close):
    beit = randomise(BeitModel(BeitConfig(**BEIT, **BEIT_KINDS[kind])))
    beit.save_pretrained(tmp_path)
    model = init_from_towers(tmp_path, bert_folder, num_frames=1, vision_config=DENSE).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actual, expected = model.vision_model(images), beit(images)
    assert_close(actual.last_hidden_state, expected.last_hidden_state, 1e-5)
    assert_close(actual.pooler_output, expected.pooler_output, 1e-5)


def test_text_mode_gives_the_states_of_bert(tmp_path, bert_folder, assert_close):
    BeitModel(BeitConfig(**BEIT)).save_pretrained(tmp_path)
    model = init_from_towers(tmp_path, bert_folder).eval()
    text = model.config.text_config
    assert (text.fusion_layer, text.encoder_width, text.hidden_size, text.vocab_size) == (3, 32, 24, 200)
    ids = torch.randint(5, 200, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        expected = BertModel.from_pretrained(bert_folder)(ids, mask, output_hidden_states=True).hidden_states[3]
        actual = model.text_model(ids, mask, mode="text").last_hidden_state
    assert_close(actual[mask.bool()], expected[mask.bool()])


def test_biases_are_inflated_and_resized(tmp_path, bert_folder, assert_close):
    beit = randomise(BeitModel(BeitConfig(**BEIT, use_relative_position_bias=True)))
    beit.save_pretrained(tmp_path)
    model = init_from_towers(tmp_path, bert_folder, num_frames=3, image_size=48)
    key = "encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table"
    source = load_file(tmp_path / "model.safetensors")[key]
    expected = resize_relative_position_bias(source, (1, 4, 4), (3, 6, 6))
    assert_close(model.vision_model.state_dict()[key], expected)
    assert (model.config.vision_config.num_frames, model.config.vision_config.image_size) == (3, 48)


def test_a_beit_without_biases_can_learn_the_order_of_frames(tmp_path, bert_folder, assert_close):
    randomise(BeitModel(BeitConfig(**BEIT, **BEIT_KINDS["absolute"]))).save_pretrained(tmp_path)
    without = {**DENSE, "use_relative_position_bias": False}
    blind = init_from_towers(tmp_path, bert_folder, num_frames=3, vision_config=without).vision_model.eval()
    vision = init_from_towers(tmp_path, bert_folder, num_frames=3, vision_config=DENSE).vision_model.eval()
    clip = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = vision(clip).pooler_output
        assert_close(before, blind(clip).pooler_output, 1e-5)
        assert_close(before, vision(clip.flip(1)).pooler_output, 1e-5)
        for name, parameter in vision.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter.normal_(std=3.0, generator=torch.Generator().manual_seed(1))
        assert (vision(clip).pooler_output - vision(clip.flip(1)).pooler_output).abs().max() > 1e-4


def test_heads_are_used_or_listed(tmp_path, caplog, assert_close):
    randomise(BeitForImageClassification(BeitConfig(**BEIT))).save_pretrained(tmp_path / "beit")
    bert = randomise(BertForPreTraining(BertConfig(**BERT)))
    bert.save_pretrained(tmp_path / "bert")
    model = init_from_towers(tmp_path / "beit", tmp_path / "bert", fusion_layer=2)
    assert "classifier.weight" in caplog.text and "cls.seq_relationship.weight" in caplog.text
    assert model.config.text_config.fusion_layer == 2
    expected = bert.cls.predictions.state_dict()
    for name, tensor in model.cls.predictions.state_dict().items():
        assert_close(tensor, expected[name])


def test_new_modules_are_initialised_and_named(tmp_path, bert_folder, caplog):
    randomise(BeitModel(BeitConfig(**BEIT, use_relative_position_bias=True))).save_pretrained(tmp_path)
    with caplog.at_level("INFO", "svitt.conversion"):
        model = init_from_towers(tmp_path, bert_folder)
    for name in ("text_model.encoder.layer.*.crossattention.self.key", "vision_proj", "itm_head", "temp"):
        assert name in caplog.text
    layer = model.text_model.encoder.layer[3].crossattention
    assert 0.01 < layer.self.key.weight.std() < 0.03
    assert model.temp.item() == pytest.approx(0.07)


def test_wrong_towers(tmp_path, bert_folder):
    BeitModel(BeitConfig(**BEIT)).save_pretrained(tmp_path / "beit")
    with pytest.raises(InputError, match=": is a 'bert' model; a 'beit' one is needed"):
        init_from_towers(bert_folder, bert_folder)
    with pytest.raises(InputError, match="is a 'beit' model; a 'bert' one is needed"):
        init_from_towers(tmp_path / "beit", tmp_path / "beit")
    with pytest.raises(InputError, match="/beit.*intermediate.dense.* has the shape"):
        init_from_towers(tmp_path / "beit", bert_folder, vision_config={"intermediate_size": 128})
    weights = load_file(tmp_path / "beit" / "model.safetensors")
    torch.save({key: weights[key] for key in weights if "layer.1." not in key}, tmp_path / "beit/pytorch_model.bin")
    (tmp_path / "beit" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="/beit: lacks weights"):
        init_from_towers(tmp_path / "beit", bert_folder)
