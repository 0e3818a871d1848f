"""Weights from elsewhere give what the code that they come from gives: BLIP, Singularity, ALBEF."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)
from transformers.image_utils import OPENAI_CLIP_MEAN

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval, SViTTProcessor
from svitt.conversion import convert, load_model_and_processor
from svitt.conversion.pickles import read_checkpoint
from svitt.errors import InputError
from svitt.modeling_svitt import pool_clips

VECTORS = Path(__file__).parent.parent / "fixtures" / "golden_weights"
TOKENIZER = VECTORS / "tokenizer"
NUM_HEADS = {"num_attention_heads": 4}


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ---- BLIP


TINY_BLIP = {
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.02,
    }
    | NUM_HEADS,
    "text_config": {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "max_position_embeddings": 40,
        "vocab_size": 202,
        "bos_token_id": 200,  # [DEC]; [ENC] is 201
        "sep_token_id": 3,
    }
    | NUM_HEADS,
    "image_text_hidden_size": 24,
}


def tiny_blip(blip_class, folder, text_width=48):
    """A BLIP whose biases and norms are no identities, saved with a tokenizer."""
    torch.manual_seed(0)
    text = TINY_BLIP["text_config"] | {"hidden_size": text_width}
    blip = blip_class(BlipConfig(**TINY_BLIP | {"text_config": text})).eval()
    for parameter in blip.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    blip.save_pretrained(folder)
    BertTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return blip


@pytest.fixture
def texts():
    torch.manual_seed(1)
    ids = torch.randint(5, 190, (2, 7))
    ids[:, 0], ids[:, -1] = 1, 3
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def with_first(ids, token):
    return F.pad(ids[:, 1:], (1, 0), value=token)


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("text_width", [48, 32])
@pytest.mark.parametrize("first_token", [201, 1])
def test_blip_retrieval(tmp_path, texts, num_frames, text_width, first_token):
    blip = tiny_blip(BlipForImageTextRetrieval, tmp_path / "blip", text_width=text_width)
    settings = {} if first_token == 201 else {"text_config": {"fusion_token_id": None}}
    convert(tmp_path / "blip", tmp_path / "svitt", **settings)
    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "svitt").eval()
    ids, mask = texts
    clips = torch.randn(2, num_frames, 3, 32, 32)

    frames = blip.vision_model(clips.flatten(0, 1)).last_hidden_state
    tokens = frames.unflatten(0, (2, num_frames)).flatten(1, 2)
    images = F.normalize(blip.vision_proj(frames[:, 0]), dim=-1).unflatten(0, (2, num_frames)).mean(dim=1)
    states = blip.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    words = F.normalize(blip.text_proj(states[:, 0]), dim=-1)
    fused = blip.text_encoder(
        input_ids=with_first(ids, first_token), attention_mask=mask, encoder_hidden_states=tokens
    ).last_hidden_state
    outputs = model(clips, ids, mask)
    assert_close(outputs.video_embeds, images)
    assert_close(outputs.text_embeds, words)
    assert_close(outputs.itm_logits, blip.itm_head(fused[:, 0]))
    assert_close(model.match(clips, ids, mask), blip.itm_head(fused[:, 0])[:, 1])


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 4])
def test_blip_answers(tmp_path, texts, num_frames):
    blip = tiny_blip(BlipForQuestionAnswering, tmp_path / "blip")
    convert(tmp_path / "blip", tmp_path / "svitt")
    model = SViTTForVideoQuestionAnswering.from_pretrained(tmp_path / "svitt").eval()
    ids, mask = texts
    clips = torch.randn(2, num_frames, 3, 32, 32)
    answers = torch.randint(5, 190, (10, 5))
    answers[:, 0], answers[:, -1] = 1, 3

    frames = blip.vision_model(clips.flatten(0, 1)).last_hidden_state
    tokens = frames.unflatten(0, (2, num_frames)).flatten(1, 2)
    question = blip.text_encoder(
        input_ids=with_first(ids, 201), attention_mask=mask, encoder_hidden_states=tokens
    ).last_hidden_state
    seen = {"encoder_hidden_states": question, "encoder_attention_mask": mask}
    start = torch.full((2, 1), 200)
    generated = blip.text_decoder.generate(input_ids=start, eos_token_id=3, pad_token_id=0, max_length=9, **seen)
    assert model.generate(clips, ids, mask, max_length=9).tolist() == generated.tolist()

    seen = {name: tensor[:1].expand(10, *tensor.shape[1:]) for name, tensor in seen.items()}
    logits = blip.text_decoder(input_ids=with_first(answers, 200), **seen).logits
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), answers[:, 1:], reduction="none").sum(dim=1)
    assert_close(
        model(clips[:1], ids[:1], mask[:1], labels=answers, answers_per_question=torch.tensor([10])).answer_loss, nll
    )
    scoring = {"answer_scoring": "likelihood", "ensemble": "concat"}
    ranked, probs = model.rank_answers(clips[:1], ids[:1], mask[:1], answers, **scoring)
    expected = (-nll).softmax(dim=0).sort(descending=True)
    assert ranked[0].tolist() == expected.indices.tolist()
    assert_close(probs[0], expected.values)


def test_blip_at_another_size(tmp_path, texts):
    blip = tiny_blip(BlipForImageTextRetrieval, tmp_path / "blip")
    convert(tmp_path / "blip", tmp_path / "svitt", image_size=48, num_frames=2)
    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "svitt").eval()
    assert (model.config.vision_config.image_size, model.config.vision_config.num_frames) == (48, 2)
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = blip.vision_model(image, interpolate_pos_encoding=True).last_hidden_state
        assert_close(model.get_video_features(image).last_hidden_state, expected)


@pytest.mark.parametrize("blip_class", [BlipForImageTextRetrieval, BlipForQuestionAnswering])
def test_blip_reads_texts_as_transformers_does(tmp_path, blip_class):
    tiny_blip(blip_class, tmp_path / "blip")
    convert(tmp_path / "blip", tmp_path / "svitt")
    processor = SViTTProcessor.from_pretrained(tmp_path / "svitt")
    texts = ["A man's dog. Is it red?", "a dog-like thing"]
    expected = BertTokenizer.from_pretrained(tmp_path / "blip")(texts, padding=True)["input_ids"]
    assert processor(text=texts)["input_ids"] == expected
    assert processor.encode_answers("a dog in the red car")["input_ids"][0, -1] == processor.tokenizer.sep_token_id
    # Its folder has no preprocessor_config.json: BLIP's own mean, not BEiT's.
    assert processor.video_processor.image_mean == pytest.approx(OPENAI_CLIP_MEAN)


def test_a_blip_that_lies_about_itself(tmp_path, caplog):
    def changed(blip_class, **fields):
        tiny_blip(blip_class, tmp_path / "blip")
        config = BlipConfig.from_pretrained(tmp_path / "blip")
        for field, value in fields.items():
            setattr(config.text_config, field, value)
        config.save_pretrained(tmp_path / "blip")
        return tmp_path / "blip"

    source = changed(BlipForImageTextRetrieval, intermediate_size=65)
    with pytest.raises(InputError, match=r"dense.bias has the shape \(64,\), its configuration needs \(65,\)"):
        convert(source, tmp_path / "svitt")
    source = changed(BlipForQuestionAnswering, bos_token_id=30522)
    with pytest.raises(InputError, match="`bos_token_id`.*is no word"):
        convert(source, tmp_path / "svitt")
    convert(changed(BlipForImageTextRetrieval, bos_token_id=30522), tmp_path / "svitt")
    assert "no place for [ENC]" in caplog.text


# ---- Singularity


@torch.no_grad()
@pytest.mark.parametrize("vectors", ["retrieval.T1", "retrieval.T4", "pretrain.T4"])
def test_singularity_retrieval(tmp_path, vectors):
    task = vectors.partition(".")[0]
    convert(VECTORS / f"singularity_{task}.pth", tmp_path / "svitt", tokenizer=TOKENIZER, text_config=NUM_HEADS)
    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "svitt").eval()
    assert_scores(model, load_file(VECTORS / f"singularity_{vectors}.safetensors"))


def assert_scores(model, expected):
    video, ids, mask = (expected[name] for name in ("video", "text_ids", "text_mask"))
    (num_videos, num_frames), num_texts = video.shape[:2], len(ids)
    features, text = model.get_video_features(video), model.get_text_features(ids, mask)
    assert_close(features.last_hidden_state, expected["concat_tokens"])
    assert_close(text.last_hidden_state, expected["text"])
    cosines = model.video_embeds(features.pooler_output) @ F.normalize(text.pooler_output, dim=-1).t()
    assert_close(cosines, expected["itc"])

    def scores(tokens):
        pairs = text.last_hidden_state.repeat(len(tokens), 1, 1), mask.repeat(len(tokens), 1)
        return model.match(None, None, pairs[1], tokens, pairs[0]).unflatten(0, (len(tokens), num_texts))

    assert_close(scores(features.last_hidden_state), expected["itm_concat"])
    frames = scores(model.get_video_features(video.flatten(0, 1)).last_hidden_state)
    frames = frames.unflatten(0, (num_videos, num_frames))
    for ensemble in ("mean", "max", "lse"):
        assert_close(pool_clips(frames, ensemble), expected[f"itm_{ensemble}"])


def test_singularity_answers(tmp_path):
    convert(VECTORS / "singularity_vqa.pth", tmp_path / "svitt", tokenizer=TOKENIZER, text_config=NUM_HEADS)
    model = SViTTForVideoQuestionAnswering.from_pretrained(tmp_path / "svitt").eval()
    expected = load_file(VECTORS / "singularity_vqa.T4.safetensors")
    names = ("video", "text_ids", "text_mask", "a_ids", "a_mask")
    video, ids, mask, *answers = (expected[name] for name in names)
    for ensemble in ("concat", "mean", "max", "lse"):
        settings = {"k": 5, "ensemble": ensemble, "num_frames": 1}
        ranked, probs = model.rank_answers(video, ids[:3], mask[:3], *answers, **settings)
        assert ranked.tolist() == expected[f"topi_{ensemble}"].tolist()
        assert_close(probs, expected[f"topp_{ensemble}"])


# ---- ALBEF

TIMM = {
    r"^encoder\.layer\.": "blocks.",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.output\.dense": "attn.proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^layernorm\.": "norm.",
}


def albef_weights() -> dict[str, torch.Tensor]:
    """The tower of the vectors under timm's names, beside momentum copies and queues, as ALBEF saves them."""
    stored = load_file(VECTORS / "vit_albef_like.T1.safetensors")
    weights = {}
    for name, tensor in stored.items():
        if not name.startswith("w.") or name == "w.temporal_embeddings":
            continue
        name = name.removeprefix("w.")
        if name.startswith("vision_encoder."):
            name = name.removeprefix("vision_encoder.")
            for ours, timm in TIMM.items():
                name = re.sub(ours, timm, name)
            name = f"visual_encoder.{name}"
        weights[name] = tensor
    for name in [name for name in weights if "attention.attention.query" in name]:
        parts = (weights.pop(name.replace("query", part)) for part in ("query", "key", "value"))
        weights[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(list(parts))
    weights |= {name.replace("_encoder.", "_encoder_m."): tensor for name, tensor in weights.items()}
    return weights | {"image_queue": torch.zeros(24, 9), "text_queue": torch.zeros(24, 9), "queue_ptr": torch.zeros(1)}


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 4])
def test_albef(tmp_path, caplog, num_frames):
    torch.save({"model": albef_weights(), "epoch": 3}, tmp_path / "albef.pth")
    with caplog.at_level("INFO", "svitt.conversion"):
        settings = {"tokenizer": TOKENIZER, "text_config": NUM_HEADS, "vision_config": NUM_HEADS}
        convert(tmp_path / "albef.pth", tmp_path / "svitt", **settings)
    assert all(name in caplog.text for name in ("visual_encoder_m", "text_encoder_m", "image_queue", "epoch"))
    model = SViTTForVideoTextRetrieval.from_pretrained(tmp_path / "svitt").eval()
    assert_scores(model, load_file(VECTORS / f"vit_albef_like.T{num_frames}.safetensors"))


# ---- What does not fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {
                "model": {"temporal_vision_encoder.layer.0.weight": torch.ones(1)},
                "config": {"add_temporal_embed": True},
            },
            "temporal variant.*one frame fit",
        ),
        ({"config": {"add_temporal_embed": True}}, "adds temporal embeddings"),
        ({"model": {"temporal_layer.0.weight": torch.ones(1)}}, "temporal_layer"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change, words):
    checkpoint = read_checkpoint(VECTORS / "singularity_retrieval.pth")
    checkpoint["model"] = checkpoint["model"] | change.get("model", {})
    checkpoint["config"] = change.get("config", {})
    torch.save(checkpoint, tmp_path / "x.pth")
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "x.pth", tmp_path / "svitt", tokenizer=TOKENIZER, text_config=NUM_HEADS)
    assert not (tmp_path / "svitt").exists()


def test_a_download_that_broke_off(tmp_path):
    stored = (VECTORS / "singularity_retrieval.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(InputError, match="its end is missing"):
        convert(tmp_path / "x.pth", tmp_path / "svitt", tokenizer=TOKENIZER)


def test_weights_without_a_checkpoint_around_them(tmp_path, caplog):
    torch.save(read_checkpoint(VECTORS / "singularity_retrieval.pth")["model"], tmp_path / "x.pth")
    sizes = {"text_config": NUM_HEADS, "vision_config": {"image_size": 32}}
    with caplog.at_level("INFO", "svitt.conversion"):
        convert(tmp_path / "x.pth", tmp_path / "svitt", tokenizer=TOKENIZER, **sizes)
    assert "itm_head" not in caplog.text  # which is converted


def test_a_folder_that_does_not_fit_is_refused(tmp_path, folders):
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig(**TINY_BLIP)).save_pretrained(tmp_path / "captions")
    for source, words in ((tmp_path / "captions", "ConditionalGeneration"), (folders / "svitt", "convert expand")):
        with pytest.raises(InputError, match=words):
            convert(source, tmp_path / "new")
    with pytest.raises(InputError, match="name a BERT behind it"):
        convert(folders / "beit", tmp_path / "new")


def test_a_blip_is_no_svitt_yet(tmp_path):
    tiny_blip(BlipForImageTextRetrieval, tmp_path / "blip")
    with pytest.raises(InputError, match="is a blip, no SViTT; svitt convert makes one"):
        load_model_and_processor(tmp_path / "blip")


def test_names_of_a_model_that_was_trained_in_parallel(tmp_path):
    weights = read_checkpoint(VECTORS / "singularity_retrieval.pth")["model"]
    parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
    for number, checkpoint in enumerate(({"model": weights}, {"state_dict": parallel, "epoch": 3}, parallel)):
        torch.save(checkpoint, tmp_path / "x.pth")
        settings = {"vision_config": {"image_size": 32}, "text_config": NUM_HEADS}
        convert(tmp_path / "x.pth", tmp_path / str(number), tokenizer=TOKENIZER, **settings)
    expected, *others = (load_file(file) for file in sorted(tmp_path.glob("*/model.safetensors")))
    for other in others:
        assert other.keys() == expected.keys()
        assert all(torch.equal(other[name], expected[name]) for name in expected)
