"""The first runtime that decodes a model here is taken, with reasons against others; the model stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from evodraft.errors import CapacityError, UnknownOptionError, UnsupportedModelError
from evodraft.runtime import choose
from evodraft.runtime.choose import RUNTIMES, TRANSFORMERS, RuntimeOptions, choose_runtime, runtime_of
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.fused import FusedDecoder
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.native.build import BuildError
from evodraft.testing.tiny import tiny_model

FUSED = ("native", "packed", "eager")


def names(report):
    return [name for name, _ in report.passed_over]


def reasons(report):
    return dict(report.passed_over)


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def without_packing(monkeypatch):
    monkeypatch.setattr(choose, "packing_problem", lambda embedding: "nothing is packed here")


# ---- order -------------------------------------------------------------------------------------------------------


def test_the_order():
    assert list(RUNTIMES) == [*FUSED, TRANSFORMERS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"])
def test_the_llama_family_runs_natively(family, dtype):
    runtime = choose_runtime(tiny_model(family).to(dtype))
    assert runtime.report.name == "native"
    assert runtime.report.about == RUNTIMES["native"]
    assert runtime.report.passed_over == ()
    assert runtime.report.numerics.name == "invariant"
    assert runtime.step is not None
    assert runtime.step.name == "native"


def test_other_families_run_as_they_are():
    report = choose_runtime(tiny_model("gemma2")).report
    assert report.name == TRANSFORMERS
    assert names(report) == list(FUSED)
    assert all("model type 'gemma2' is none of llama" in reason for reason in reasons(report).values())
    assert report.numerics.name == "fast"
    assert "transformers' modules" in report.numerics.reason


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_that_is_named_is_the_only_one_tried(name, monkeypatch):
    monkeypatch.setattr(choose, "packing_problem", lambda embedding: None)
    runtime = choose_runtime(tiny_model("llama"), RuntimeOptions(name, "fast"))
    assert runtime.report.name == name
    assert runtime.report.passed_over == ()
    assert runtime.report.numerics == ("fast", "you asked for it")
    decoder = runtime.decoder(num_slots=2, max_length=8)
    assert isinstance(decoder, HfDecoder if name == TRANSFORMERS else FusedDecoder)
    assert runtime_of(decoder) is runtime
    assert (decoder.num_slots, decoder.max_length) == (2, 8)
    assert runtime_of(object()) is None


def test_copies_are_counted(monkeypatch):
    monkeypatch.setattr(choose, "packing_problem", lambda embedding: None)
    model = tiny_model("llama")
    copied = {name: choose_runtime(model, RuntimeOptions(name, "fast")).copied_bytes for name in RUNTIMES}
    matrices = [weight for weight in model.parameters() if weight.ndim == 2 and weight is not model.model.embed_tokens]
    assert copied["native"] == copied[TRANSFORMERS] == 0
    assert 0 < copied["eager"] < copied["packed"] < sum(weight.nbytes for weight in matrices)


@pytest.mark.parametrize(
    ("options", "named"), [({"runtime": "natve"}, "'native'"), ({"numerics": "invarient"}, "'invariant'")]
)
def test_words_that_mean_nothing(options, named):
    with pytest.raises(UnknownOptionError, match=named):
        RuntimeOptions(**options)


def test_sizes_that_cannot_be():
    runtime = choose_runtime(tiny_model("llama", max_position_embeddings=32))
    assert runtime.decoder(1).max_length == 32
    with pytest.raises(CapacityError):
        runtime.decoder(1, 33)
    with pytest.raises(CapacityError):
        runtime.decoder(0)


# ---- what can be in the way --------------------------------------------------------------------------------------


def test_without_a_compiler(without_compiler, without_packing):
    report = choose_runtime(tiny_model("llama")).report
    assert report.name == "eager"
    assert "no C++ compiler here (no-such-compiler)" in reasons(report)["native"]
    assert reasons(report)["packed"] == "nothing is packed here"


def test_a_library_that_cannot_be_loaded(monkeypatch, without_packing):
    def load():
        raise BuildError("it is none")

    monkeypatch.setattr("evodraft.runtime.native.problem.load_library", load)
    report = choose_runtime(tiny_model("llama")).report
    assert report.name == "eager"
    assert reasons(report)["native"] == "it is none"


class Wrong(EagerStep):
    """Says something else than its weights."""

    def head(self, hidden):
        return super().head(hidden).roll(1, dims=-1)


class NotANumber(EagerStep):
    def head(self, hidden):
        return super().head(hidden) * torch.nan


@pytest.mark.parametrize("step", [Wrong, NotANumber])
def test_a_step_that_says_something_else_is_not_taken(step, monkeypatch, without_packing):
    monkeypatch.setattr(choose, "NativeStep", lambda weights, library: step(weights, name="native"))
    report = choose_runtime(tiny_model("llama")).report
    assert report.name == "eager"
    assert "says something else than its modules: logits differ by" in reasons(report)["native"]


def test_nothing_left(monkeypatch):
    monkeypatch.setattr(choose, "NativeStep", lambda weights, library: Wrong(weights, name="native"))
    with pytest.raises(UnsupportedModelError, match=r"runtime='native'.*\(native: .*something else.*ask for less"):
        choose_runtime(tiny_model("llama"), RuntimeOptions("native"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_types_that_the_native_step_lacks(dtype, without_packing):
    report = choose_runtime(tiny_model("llama").to(dtype)).report
    assert report.name == "eager"
    assert "computes bfloat16 and float32, not float" in reasons(report)["native"]


def test_copies_need_memory(monkeypatch, without_compiler):
    monkeypatch.setattr(choose, "packing_problem", lambda embedding: None)
    monkeypatch.setattr(choose, "free_memory", lambda: 2**16)
    report = choose_runtime(tiny_model("llama")).report
    assert report.name == TRANSFORMERS
    for name in ("packed", "eager"):
        assert "it copies 0.0 GiB of weights and 0.0 GiB are free" in reasons(report)[name]


def test_nobody_knows_the_memory(monkeypatch, without_compiler, without_packing):
    monkeypatch.setattr(choose, "free_memory", lambda: None)
    assert choose_runtime(tiny_model("llama")).report.name == "eager"


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: output)
    return model


def with_another_linear(model):
    class Rounded(torch.nn.Linear):
        def forward(self, states):
            return super().forward(states).round(decimals=3)

    old = model.model.layers[1].mlp.up_proj
    new = Rounded(old.in_features, old.out_features, bias=False)
    new.weight = old.weight
    model.model.layers[1].mlp.up_proj = new
    return model


def with_adapter(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def with_parametrised_weight(model):
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.down_proj)
    return model


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("change", [hooked, with_another_linear, with_adapter, with_parametrised_weight])
def test_whatever_a_model_was_fitted_with_still_runs(change):
    report = choose_runtime(change(tiny_model("llama")).eval()).report
    assert report.name == TRANSFORMERS
    assert names(report) == list(FUSED)


# ---- numerics ----------------------------------------------------------------------------------------------------


class Widthwise(EagerStep):
    """Right, but for the last bits, which depend on the width of a pass."""

    def head(self, hidden):
        return super().head(hidden) * (1.0 + hidden.shape[1] * 2.0**-20)


@pytest.fixture
def not_invariant(monkeypatch):
    monkeypatch.setattr(choose, "NativeStep", lambda weights, library: Widthwise(weights, name="native"))


def test_numerics_that_are_not_invariant_are_called_fast(not_invariant):
    report = choose_runtime(tiny_model("llama")).report
    assert report.name == "native"
    assert report.numerics.name == "fast"
    assert "computed other bits" in report.numerics.reason


def test_invariant_numerics_wanted_and_not_to_be_had(not_invariant, monkeypatch):
    monkeypatch.setattr(choose, "is_invariant", lambda step, facts: False)
    with pytest.raises(UnsupportedModelError) as caught:
        choose_runtime(tiny_model("llama"), RuntimeOptions(numerics="invariant"))
    for name in RUNTIMES:
        assert f"{name}: " in str(caught.value)
    assert str(caught.value).count("its numerics are not invariant") >= 3
    assert str(caught.value).endswith("ask for less")


def test_invariant_numerics_wanted_and_had():
    report = choose_runtime(tiny_model("qwen3").bfloat16(), RuntimeOptions(numerics="invariant")).report
    assert (report.name, report.numerics.name) == ("native", "invariant")


def test_fast_numerics_are_not_tried(monkeypatch):
    monkeypatch.setattr(choose, "is_invariant", lambda step, facts: pytest.fail("tried"))
    assert choose_runtime(tiny_model("llama"), RuntimeOptions(numerics="fast")).report.numerics.name == "fast"


# ---- the model is the caller's -----------------------------------------------------------------------------------


def num_hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def state_of(model):
    return {
        name: (tensor.data_ptr(), tensor.clone(), tensor.requires_grad) for name, tensor in model.named_parameters()
    }


@pytest.mark.parametrize("name", ["auto", *RUNTIMES])
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_model_is_not_written_to(name, is_training, family, monkeypatch):
    monkeypatch.setattr(choose, "packing_problem", lambda embedding: None)
    model = tiny_model(family).train(is_training)
    parameters, config, hooks = state_of(model), copy.deepcopy(model.config.to_dict()), num_hooks(model)
    attributes, buffers = set(vars(model)), {name: buffer.clone() for name, buffer in model.named_buffers()}
    decoder = choose_runtime(model, RuntimeOptions(name)).decoder(2, 16)
    decoder.forward(torch.tensor([[3, 4, 5], [6, 7, 7]]), [3, 2], [1, 0])
    for (place, before, needs_gradient), (_, now) in zip(parameters.values(), model.named_parameters(), strict=True):
        assert now.data_ptr() == place
        assert torch.equal(now, before)
        assert now.requires_grad == needs_gradient
        assert now.grad is None
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert model.config.to_dict() == config
    assert num_hooks(model) == hooks
    assert set(vars(model)) == attributes
    assert all(module.training == is_training for module in model.modules())
