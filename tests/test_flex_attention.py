"""`attn_implementation="flex_attention"` against eager. Kernels want a GPU; the CPU has their reference and lists."""

import shutil

import pytest
import torch
from torch import nn

from svitt import SViTTForVideoQuestionAnswering, SViTTModel, fixed_block_pattern, modeling_svitt
from svitt.modeling_svitt import RelativePositions, SViTTVisionEncoder, lay_out_slots

from .test_modeling import clips, task_model, texts, vision_model

CASES = {
    "partial last block": {},
    "unmasked padding": {"attn_mask_padding": False},
    "no bias table": {"use_relative_position_bias": False},
    "no drops": {"token_drop_loc": [], "sparse_local_attn": 3, "sparse_random_attn": 1},
    "resized table": {"num_frames": 5},
    "whole blocks, a power of two": {"attn_block_size": 8, "token_keep_rate": 0.5, "sparse_random_attn": 1},
    "every block sees every other": {"attn_block_size": 20, "attn_mask_padding": False},
    "curve, random drops, no local blocks": {
        "token_3d_order": "hilbert",
        "token_keep_strategy": "random",
        "sparse_local_attn": 0,
    },
    "dense": {"sparse_random_attn": None},
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compile_kernel(monkeypatch):
    """Compile flex attention on the CPU, where the model takes it as it is."""

    def compile_kernel(**how):
        compiled = torch.compile(modeling_svitt.flex_attention, **how)
        monkeypatch.setattr(modeling_svitt, "flex_attention", compiled)

    return compile_kernel


def outputs_of(model, implementation, *inputs, **kwargs):
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        return model(*inputs, **kwargs)


def assert_like_eager(model, video):
    """The pooled clip, the tokens and which of them are left."""
    expected, actual = (outputs_of(model, name, video) for name in ("eager", "flex_attention"))
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    for positions, expected_positions in zip(actual.token_idx or (), expected.token_idx or (), strict=True):
        assert torch.equal(positions, expected_positions)


# ---- Forward


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_frames", [3, 4])
def test_equals_eager(case, num_frames):
    assert_like_eager(vision_model(**CASES[case]), clips(num_frames=num_frames))


def test_follows_the_pattern_of_training_and_of_the_user():
    model = vision_model(token_drop_loc=[], num_hidden_layers=1)
    patterns = [torch.tensor([[m, (m + 2) % 7, (m + 5) % 7] for m in range(7)])]
    results = []
    for implementation in ("eager", "flex_attention"):
        with fixed_block_pattern(patterns):
            results.append(outputs_of(model, implementation, clips()).last_hidden_state)
        torch.manual_seed(0)
        results.append(outputs_of(model.train(), implementation, clips()).last_hidden_state)
        model.eval()
    for expected, actual in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(*results[:2], atol=1e-4)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_list_and_mask_of_blocks_agree(mask_padding):
    """Kernels visit the listed tiles alone, so the list holds those, and only those, that the mask lets through."""
    pattern = torch.tensor([[0, 2], [1, 0], [2, 3], [3, 1], [0, 4]])
    relative_positions = RelativePositions(3, 4, 4)
    coordinates = relative_positions.coordinates(torch.arange(33)[None])
    slots = lay_out_slots(pattern, coordinates, relative_positions, block_size=7, mask_padding=mask_padding)
    places = torch.arange(5 * 32)
    seen = slots.mask.mask_mod(0, 0, places[:, None], places).view(5, 32, 5, 32)
    tiles = seen.any(dim=3).any(dim=1)
    assert torch.equal(tiles, torch.zeros_like(tiles).scatter(1, pattern, True))
    assert torch.equal(slots.mask.to_dense()[0, 0].bool(), tiles)
    length_of_last = 5 if mask_padding else 7
    assert seen[0].sum(dim=(1, 2)).tolist() == [15] * 32  # one CLS token and two blocks
    assert seen[2].sum(dim=(1, 2)).tolist() == [15] * 32
    assert seen[4].sum(dim=(1, 2)).tolist() == [1 + 7 + length_of_last] * 32
    assert slots.mask.seq_lengths == (160, 160)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_kernel_equals_eager(compile_kernel):
    """This one reads the list of blocks. One kernel serves all layers and patterns (on the CPU, of a fixed size)."""
    compile_kernel(dynamic=False)
    assert_like_eager(vision_model(token_drop_loc=[]), clips())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_one_graph_for_all_sizes(compile_kernel):
    compile_kernel(dynamic=True, backend="aot_eager")
    model = vision_model()
    for batch_size, num_frames in ((2, 3), (3, 3), (5, 2), (4, 6)):  # and three numbers of tokens each
        assert_like_eager(model, clips(batch_size, num_frames))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("case", ["partial last block", "unmasked padding"])
def test_whole_model_compiles_without_graph_breaks(case):
    model = vision_model(**CASES[case], num_hidden_layers=2, token_drop_loc=[0])
    expected = outputs_of(model, "flex_attention", clips()).last_hidden_state
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(clips()).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


# ---- Backward


def gradients(model, implementation, video, dtype=torch.float32):
    model.set_attn_implementation(implementation)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with torch.autocast(video.device.type, dtype=dtype, enabled=dtype != torch.float32):
        states = model(video).last_hidden_state
    states.float().pow(2).mean().backward()
    return states.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients_close(actual, expected, tolerance):
    """Relative to the norm of each gradient; tables and all."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (actual[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.fixture
def backward_on_cpu(monkeypatch):
    """torch refuses it, but the unfused reference of the kernels has one, with gradients of the bias table."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(SViTTVisionEncoder, "check_flex_attention", lambda *arguments: None)


@pytest.mark.parametrize("case", ["partial last block", "unmasked padding", "no bias table", "resized table"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_the_reference(case, training, backward_on_cpu):
    model = vision_model(**CASES[case]).train(training)
    (_, expected), (_, actual) = (gradients(model, name, clips()) for name in ("eager", "flex_attention"))
    assert any("bias_table" in name for name in actual) == (case != "no bias table")
    assert_gradients_close(actual, expected, 2e-5)


def test_one_graph_for_all_sizes_with_gradients_and_checkpointing(compile_kernel, backward_on_cpu):
    compile_kernel(dynamic=True, backend="aot_eager")
    model = vision_model().train()
    for batch_size, num_frames in ((2, 3), (4, 2)):
        video = clips(batch_size, num_frames)
        model.gradient_checkpointing_disable()
        _, expected = gradients(model, "eager", video)
        for checkpointing in (False, True):
            if checkpointing:
                model.activation_checkpointing_enable()
            assert_gradients_close(gradients(model, "flex_attention", video)[1], expected, 2e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


# ---- Errors


def test_errors_come_first_and_name_another_way(monkeypatch):
    model = vision_model()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match=r"no backward pass on device 'cpu' .* use 'sdpa' instead"):
        model(clips())
    with torch.no_grad():
        model(clips())
        model.train()(clips())
    dropout = vision_model(attention_probs_dropout_prob=0.1)
    dropout.set_attn_implementation("flex_attention")
    with torch.no_grad(), pytest.raises(ValueError, match="no dropout .* is 0.1.*: use 'sdpa' instead"):
        dropout.train()(clips())
    outputs_of(dropout.eval(), "flex_attention", clips())
    twice = torch.tensor([[m, m, (m + 1) % 7] for m in range(7)])
    with torch.no_grad(), fixed_block_pattern([twice]), pytest.raises(ValueError, match="twice.*use 'sdpa' instead"):
        model(clips())
    dense = vision_model(sparse_random_attn=None)
    dense.set_attn_implementation("flex_attention")
    dense(clips()).last_hidden_state.sum().backward()


# ---- In a whole model


def test_whole_models_load_with_it(tmp_path):
    """Clips go through it; texts, which are short and dense, stay with sdpa."""
    ids, mask = texts()
    for model_class in (SViTTModel, SViTTForVideoQuestionAnswering):
        model = task_model(model_class)
        model.save_pretrained(tmp_path / model_class.__name__)
        for implementation in ("flex_attention", {"vision_config": "flex_attention"}):
            loaded = model_class.from_pretrained(
                tmp_path / model_class.__name__, attn_implementation=implementation
            ).eval()
            assert loaded.config.vision_config._attn_implementation == "flex_attention"
            assert loaded.config.text_config._attn_implementation == "sdpa"
            with torch.no_grad():
                expected, actual = model(clips(), ids, mask), loaded(clips(), ids, mask)
            for a, b in zip(actual.to_tuple(), expected.to_tuple(), strict=True):
                if torch.is_tensor(a) and a.is_floating_point():
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert loaded.config.decoder_config._attn_implementation == "sdpa"
    loaded.generate(clips(), ids, mask, max_new_tokens=3)


# ---- On a GPU


def gpu_model(**settings):
    """Heads of 16 dimensions, the least a GPU takes."""
    shape = {"hidden_size": 48, "num_frames": 4, "image_size": 64, "num_hidden_layers": 4, "attn_block_size": 28}
    model = vision_model(**{**shape, **settings})
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:  # wider sums of as many sizes, or softmax saturates
            parameter.data *= (24 / parameter[0].numel()) ** 0.5
    return model.cuda()


def gpu_clips(batch_size=2, num_frames=4):
    return torch.randn(batch_size, num_frames, 3, 64, 64, generator=torch.Generator().manual_seed(1)).cuda()


GPU_CASES = {
    "slots of 32": {},
    "slots of 64": {"attn_block_size": 56, "sparse_random_attn": 1},
    "slots of 128": {"attn_block_size": 64, "sparse_random_attn": 1, "token_keep_rate": 0.9},
    "heads of 64": {"hidden_size": 192, "attn_block_size": 56, "sparse_random_attn": 1},
    "unmasked padding": {"attn_mask_padding": False},
    "no bias table": {"use_relative_position_bias": False},
    "resized table": {"num_frames": 3},
    "no drops": {"token_drop_loc": []},
}


@needs_cuda
@pytest.mark.parametrize("case", GPU_CASES)
@pytest.mark.parametrize("training", [False, True])
def test_gpu_equals_eager(case, training):
    model = gpu_model(**GPU_CASES[case]).train(training)
    (states, expected), (flex_states, actual) = (
        gradients(model, name, gpu_clips()) for name in ("eager", "flex_attention")
    )
    torch.testing.assert_close(flex_states, states, rtol=1e-4, atol=1e-4)
    assert_gradients_close(actual, expected, 1e-3)


@needs_cuda
@pytest.mark.parametrize("case", ["slots of 32", "heads of 64", "unmasked padding"])
def test_gpu_in_half_precision(case):
    """No drops: which tokens stay depends on the last bits."""
    model = gpu_model(**{**GPU_CASES[case], "token_drop_loc": []})
    exact, expected = gradients(model, "eager", gpu_clips())
    errors = {}
    for implementation in ("eager", "flex_attention"):
        states, actual = gradients(model, implementation, gpu_clips(), torch.bfloat16)
        errors[implementation] = (states.float() - exact).norm() / exact.norm()
        assert_gradients_close(actual, expected, 0.1)
    assert errors["flex_attention"] < 2 * errors["eager"] + 1e-3
    whole = model.to(torch.bfloat16)
    states, _ = gradients(whole, "flex_attention", gpu_clips().to(torch.bfloat16))
    assert nn.functional.cosine_similarity(states.float().flatten(), exact.flatten(), dim=0) > 0.99


@needs_cuda
def test_gpu_compiles_once():
    model = gpu_model().train()
    gradients(model, "flex_attention", gpu_clips())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for batch_size, num_frames in ((2, 4), (3, 4), (5, 3), (4, 6)):
        gradients(model, "flex_attention", gpu_clips(batch_size, num_frames))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs == 1


@needs_cuda
def test_gpu_with_checkpointing():
    model = gpu_model().train()
    _, expected = gradients(model, "flex_attention", gpu_clips())
    model.activation_checkpointing_enable()
    _, actual = gradients(model, "flex_attention", gpu_clips())
    assert_gradients_close(actual, expected, 1e-4)  # atomic additions come in any order


@needs_cuda
def test_gpu_whole_model_compiles():
    model = gpu_model()
    expected = outputs_of(model, "eager", gpu_clips()).last_hidden_state
    model.set_attn_implementation("flex_attention")
    with torch.no_grad():
        actual = torch.compile(model, fullgraph=True)(gpu_clips()).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
