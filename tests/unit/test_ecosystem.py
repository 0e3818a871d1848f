# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""What other libraries make of our models: the snippets of docs/ecosystem.md, and what users of Transformers expect."""

import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModel, Trainer, TrainingArguments

from svitt import (
    SViTTConfig,
    SViTTForPreTraining,
    SViTTForVideoClassification,
    SViTTForVideoQuestionAnswering,
    SViTTForVideoTextRetrieval,
    SViTTModel,
    SViTTProcessor,
    SViTTVideoProcessor,
    SViTTVisionModel,
    fixed_block_pattern,
    read_video,
)
from svitt.configuration_svitt import __version__

from ..conftest import ROOT

PAGE = (ROOT / "docs/ecosystem.md").read_text()
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
NEEDS = {
    "Sentence Transformers": ["sentence_transformers"],
    "MTEB": ["mteb"],
    "LoRA": ["peft"],
    "ONNX": ["onnxscript", "onnxruntime"],
}
TASKS = {
    "retrieval": SViTTForPreTraining,
    "answers": SViTTForVideoQuestionAnswering,
    "classes": SViTTForVideoClassification,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, folders, write_video):
    """A folder with the models that the page names, and two videos."""
    place = tmp_path_factory.mktemp("ecosystem")
    processor = SViTTProcessor.from_pretrained(folders / "svitt")
    for name, model_class in TASKS.items():
        torch.manual_seed(0)
        model_class(SViTTConfig.from_pretrained(folders / "svitt")).save_pretrained(place / name)
        processor.save_pretrained(place / name)
    for name in ("a.mp4", "b.mp4"):
        write_video(place / name, "libx264", num_frames=24)
    return place


@pytest.fixture
def run_section(place, monkeypatch):
    """Run the snippets of a section of the page, one after another; return what they define."""

    def run(name):
        for module in NEEDS.get(name, []):
            pytest.importorskip(module)
        monkeypatch.chdir(place)
        found = {"__name__": name}
        for snippet in re.findall(r"```python\n(.*?)```", dict(SECTIONS)[name], re.DOTALL):
            exec(snippet, found)
        return found

    return run


@pytest.fixture
def inputs(place):
    """Two videos and two texts."""
    processor = SViTTProcessor.from_pretrained(place / "retrieval")
    return processor(videos=[place / "a.mp4", place / "b.mp4"], text=["a cat plays", "the piano"], return_tensors="pt")


def test_all_snippets_are_run():
    ours = [name for name, text in SECTIONS if "```python" in text]
    assert ours == [
        "Trainer",
        "Sentence Transformers",
        "MTEB",
        "LoRA",
        "ONNX",
        "int8",
        "Pipelines",
        "torch.compile",
    ]


# ---- Trainers


def test_plain_trainers_train_and_evaluate(run_section, capsys):
    found = run_section("Trainer")
    printed = capsys.readouterr().out
    assert found["trainer"].state.global_step == 2 and found["ids"].shape[0] == 1
    assert re.search(r"^\d+\.\d+$", printed, re.MULTILINE), printed  # eval_loss


def test_gradients_that_trainer_accumulates_are_those_of_the_whole_batch(place, tmp_path, inputs):
    config = SViTTConfig.from_pretrained(place / "answers")
    config.vision_config.sparse_random_attn = None
    for part in (config.vision_config, config.text_config, config.decoder_config):
        part.hidden_dropout_prob = part.attention_probs_dropout_prob = part.drop_path_rate = 0.0
    inputs |= {"labels": torch.tensor([[2, 7, 3], [2, 8, 3]])}
    rows = [{name: values[i] for name, values in inputs.items()} for i in range(2)]
    weights = []
    for batch_size, steps in ((2, 1), (1, 2)):
        model = SViTTForVideoQuestionAnswering.from_pretrained(place / "answers", config=config)
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps, "max_steps": 1}
        options |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        arguments = TrainingArguments(tmp_path, remove_unused_columns=False, report_to="none", use_cpu=True, **options)
        Trainer(model, arguments, train_dataset=rows).train()
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


def test_generation_settings_count_and_are_saved(place, tmp_path, inputs):
    model = SViTTForVideoQuestionAnswering.from_pretrained(place / "answers")
    model.generation_config.update(max_new_tokens=3, min_new_tokens=3)
    model.save_pretrained(tmp_path)
    for one in (model, SViTTForVideoQuestionAnswering.from_pretrained(tmp_path)):
        assert one.generate(**inputs).shape == (2, 4)
        assert one.generate(**inputs, max_new_tokens=5, min_new_tokens=5).shape == (2, 6)


def test_questions_and_answers_take_new_words(place, tmp_path, inputs):
    model = SViTTForVideoQuestionAnswering.from_pretrained(place / "answers")
    model.resize_token_embeddings(13)
    labels = torch.tensor([[2, 12, 3], [2, 11, 3]])
    inputs["input_ids"][0, 1] = 12
    loss = model(**inputs, labels=labels).loss
    model.save_pretrained(tmp_path)
    reloaded = SViTTForVideoQuestionAnswering.from_pretrained(tmp_path)
    assert reloaded(**inputs, labels=labels).loss == loss and reloaded.config.decoder_config.vocab_size == 13


def test_the_first_gradient_has_no_spike(place, inputs):
    """A CLS token of exactly zero made it ten thousand times larger: the norm before attention has a tiny epsilon."""
    torch.manual_seed(0)
    model = SViTTForPreTraining(SViTTConfig.from_pretrained(place / "retrieval")).train()
    model(**inputs).loss.backward()
    assert 0 < model.vision_model.embeddings.cls_token.grad.norm() < 1  # it was 700


# ---- Other libraries


def test_sentence_transformers_encode_texts_and_videos(run_section, place, inputs):
    found = run_section("Sentence Transformers")
    model = SViTTForPreTraining.from_pretrained(place / "retrieval")
    with torch.no_grad():
        outputs = model(**inputs)
    videos, texts = outputs.video_model_output.pooler_output, outputs.text_model_output.pooler_output
    torch.testing.assert_close(torch.from_numpy(found["texts"]), texts)
    torch.testing.assert_close(torch.from_numpy(found["videos"]), videos)
    video = np.random.default_rng(0).integers(0, 255, (5, 3, 20, 24), dtype=np.uint8)
    assert found["encoder"].encode([video]).shape == (1, 8)


class Decoder:
    """As much of a decoder of torchcodec as MTEB asks of it."""

    def __init__(self, frames):
        self.frames, self.metadata = frames, SimpleNamespace(num_frames=len(frames), average_fps=25.0)

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        return SimpleNamespace(data=self.frames[torch.as_tensor(indices)])


class Videos(list):
    features = {"video": None}


def test_mteb_encodes_texts_and_videos(run_section, place):
    mteb = pytest.importorskip("mteb")
    encoder, where = run_section("MTEB")["encoder"], {"hf_split": "test", "hf_subset": "default"}
    where["task_metadata"] = mteb.get_task("MSVDT2VRetrieval").metadata
    frames, _ = read_video(place / "a.mp4")
    videos = Videos([{"video": Decoder(torch.from_numpy(frames).permute(0, 3, 1, 2))} for _ in range(3)])
    texts = Dataset.from_dict({"text": ["a cat plays", "the piano"]})
    embeds = [encoder.encode(DataLoader(texts, batch_size=2), **where)]
    embeds.append(encoder.encode(DataLoader(videos, batch_size=2), **where))
    assert [one.shape for one in embeds] == [(2, 8), (3, 8)]
    assert encoder.similarity(*embeds).shape == (2, 3)


def test_lora_trains_reloads_and_merges(run_section, inputs):
    found = run_section("LoRA")
    assert all("lora" in name for name, one in found["adapted"].named_parameters() if one.grad is not None)
    with torch.no_grad():
        one, other = found["adapted"].eval()(**inputs), found["model"].eval()(**inputs)
    torch.testing.assert_close(one.logits_per_video, other.logits_per_video)


def test_lora_generates_answers(place, inputs):
    peft = pytest.importorskip("peft")
    model = SViTTForVideoQuestionAnswering.from_pretrained(place / "answers")
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["query", "value"]))
    adapted(**inputs, labels=torch.tensor([[2, 5, 3], [2, 6, 3]])).loss.backward()
    assert adapted.generate(**inputs, max_new_tokens=4, min_new_tokens=4).shape == (2, 5)


@pytest.mark.slow
def test_onnx_computes_the_same_for_any_number_of_clips(run_section):
    """Sparse attention, token dropping and all, with the default attention."""
    found = run_section("ONNX")
    for number in (1, 2, 5):
        clips = torch.randn(number, 2, 3, 32, 32)
        [features] = found["session"].run(None, {"pixel_values": clips.numpy()})
        with torch.no_grad():
            expected = found["model"].get_video_features(clips).pooler_output
        torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-5, rtol=1e-4)


def test_the_video_encoder_is_exported_for_any_number_of_clips(place):
    """What ONNX is made from, without the minute that it takes."""
    model = SViTTVisionModel.from_pretrained(place / "retrieval").eval()
    size = {"pixel_values": {0: torch.export.Dim("clips")}}
    exported = torch.export.export(model, (torch.randn(2, 2, 3, 32, 32),), dynamic_shapes=size)
    for number in (1, 3):
        clips = torch.randn(number, 2, 3, 32, 32)
        torch.testing.assert_close(exported.module()(clips).last_hidden_state, model(clips).last_hidden_state)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per")
def test_int8_scores_are_close(run_section, place, inputs):
    """Of the same tokens: of near ties, the quantised video encoder may drop others."""
    model, found = SViTTForVideoTextRetrieval.from_pretrained(place / "retrieval"), run_section("int8")
    with torch.no_grad():
        exact, close = model(**inputs), found["model"](**inputs)
        seen = {"video_hidden_states": exact.video_model_output.last_hidden_state}
        seen |= {"text_hidden_states": exact.text_model_output.last_hidden_state}
        torch.testing.assert_close(found["model"].match(**seen), model.match(**seen), atol=0.02, rtol=0)
    torch.testing.assert_close(close.text_embeds, exact.text_embeds, atol=0.02, rtol=0)
    assert close.video_embeds.shape == exact.video_embeds.shape


def test_the_pipeline_classifies_files(run_section, place):
    [best] = run_section("Pipelines")["classify"](str(place / "a.mp4"), top_k=1, frame_sampling_rate=8)
    assert best["label"].startswith("LABEL_") and 0.5 <= best["score"] <= 1


@pytest.mark.slow
def test_compiled_models_compute_the_same(run_section, inputs):
    found = run_section("torch.compile")
    with torch.no_grad():
        one, other = found["compiled"](**inputs), found["model"](**inputs)
    torch.testing.assert_close(one.itm_logits, other.itm_logits, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_batches_of_other_sizes_need_no_graph_of_their_own(place):
    model, graphs = SViTTVisionModel.from_pretrained(place / "retrieval").eval(), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    with torch.no_grad():
        for number in (2, 3, 4, 5):
            compiled(torch.randn(number, 2, 3, 32, 32))
    assert len(graphs) == 2  # for two clips, then for any number


# ---- Conventions


@pytest.mark.parametrize("model_class", [AutoModel, SViTTForVideoTextRetrieval, SViTTForPreTraining])
def test_all_texts_are_compared_with_all_videos(place, inputs, model_class):
    """Also where there are fewer texts, which cannot be fused with one video each."""
    model = model_class.from_pretrained(place / "retrieval")
    outputs = model(inputs["pixel_values"], inputs["input_ids"][:1], inputs["attention_mask"][:1])
    assert outputs.logits_per_video.shape == (2, 1) and outputs.itm_logits is None
    with pytest.raises(ValueError, match="1 texts for 2 videos"):
        model.match(inputs["pixel_values"], inputs["input_ids"][:1], inputs["attention_mask"][:1])


def test_other_threads_draw_their_own_patterns(place):
    model, clip, found = SViTTVisionModel.from_pretrained(place / "retrieval").eval(), torch.randn(1, 2, 3, 32, 32), []
    expected = model(clip).last_hidden_state
    with fixed_block_pattern([torch.zeros(8, 1, dtype=torch.int64)]):
        thread = threading.Thread(target=lambda: found.append(model(clip).last_hidden_state))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("load", [SViTTModel.from_pretrained, AutoModel.from_pretrained])
def test_flash_attention_is_refused_with_the_reason(place, load):
    with pytest.raises(ValueError, match="biases of relative positions .* can be 'sdpa' or 'eager'"):
        load(place / "retrieval", attn_implementation="flash_attention_2")


def test_a_rate_of_frames_needs_no_number_of_frames(place):
    processor = SViTTVideoProcessor(num_frames=None)
    assert processor(place / "a.mp4", fps=5).pixel_values[0].shape[0] == 5  # of 0.96 s
    with pytest.raises(ValueError, match="`num_frames` and `vlen` must be at least 1, got None"):
        processor(place / "a.mp4")


def test_names_that_other_libraries_look_for_are_those_of_the_encoders(place):
    config = SViTTConfig.from_pretrained(place / "answers", num_frames=5)
    config.pad_token_id = 1
    assert (config.num_frames, config.vision_config.num_frames, config.decoder_config.pad_token_id) == (5, 5, 1)
    saved = config.to_dict()
    assert saved.keys().isdisjoint({"num_frames", "pad_token_id"}) and SViTTConfig.from_dict(saved).num_frames == 5


def test_folders_name_the_version_that_wrote_their_code(place):
    assert f'\n__version__ = "{__version__}"' in (place / "retrieval/configuration_svitt.py").read_text()
