# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT for Transformers: sparse video-text transformers (CVPR 2023) for retrieval and question answering.

Importing the package loads nothing; a name loads its module when it is first used.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.metadata import version

# What the package offers, by module. Configurations come with the models, lest the Auto classes know only the former.
NAMES = {
    "modeling_svitt": """
        SViTTConfig SViTTForPreTraining SViTTForVideoClassification SViTTForVideoQuestionAnswering
        SViTTForVideoTextRetrieval SViTTModel SViTTPreTrainedModel SViTTTextConfig SViTTTextDecoder
        SViTTTextDecoderConfig SViTTTextModel SViTTVisionConfig SViTTVisionModel fixed_block_pattern""",
    "processing_svitt": """
        SViTTProcessor SViTTVideoProcessor VideoDecodeError clean_text read_video sample_frame_indices""",
    "errors": "InputError",
    "search.ask": "SViTTAnswerer",
    "search.index": "SViTTIndex",
    "training.trainer": "SViTTTrainer SViTTTrainingArguments",
}
MODULE_OF = {name: module for module, names in NAMES.items() for name in names.split()}
__all__ = list(MODULE_OF)


def __getattr__(name: str):
    if name == "__version__":
        return version("svitt")
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# ---- Where this package is imported, the Auto classes load our folders without remote code. They take classes, and
# loading ours takes seconds: they get stand-ins when Transformers loads them, and ours when these have been loaded.


class StandIn(type):
    """Class of classes that are known by the name of one of ours, which is loaded for whatever is asked of them."""

    def __getattr__(cls, attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(__getattr__(cls.__name__), attribute)

    def __call__(cls, *args, **kwargs):
        return __getattr__(cls.__name__)(*args, **kwargs)


CONFIG, PROCESSOR, VIDEO_PROCESSOR = (
    StandIn(name, (), {"__module__": __name__}) for name in ("SViTTConfig", "SViTTProcessor", "SViTTVideoProcessor")
)


def register_classes(modeling):
    import transformers

    # The one that `transformers` exports is a dummy where torchvision is absent; the class itself needs none.
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    transformers.AutoConfig.register("svitt", modeling.SViTTConfig)
    for auto_class, name in (
        (transformers.AutoModel, "SViTTModel"),
        (transformers.AutoModelForPreTraining, "SViTTForPreTraining"),
        (transformers.AutoModelForVisualQuestionAnswering, "SViTTForVideoQuestionAnswering"),
        (transformers.AutoModelForVideoClassification, "SViTTForVideoClassification"),
        (transformers.AutoProcessor, "SViTTProcessor"),
        (AutoVideoProcessor, "SViTTVideoProcessor"),
    ):
        auto_class.register(modeling.SViTTConfig, __getattr__(name))


AUTO = "transformers.models.auto"
AFTER_IMPORT = {
    f"{AUTO}.configuration_auto": lambda module: module.AutoConfig.register("svitt", CONFIG),
    f"{AUTO}.processing_auto": lambda module: module.AutoProcessor.register(CONFIG, PROCESSOR),
    f"{AUTO}.video_processing_auto": lambda module: module.AutoVideoProcessor.register(CONFIG, VIDEO_PROCESSOR),
    f"{__name__}.modeling_svitt": register_classes,
}


class AfterImport(MetaPathFinder):
    """Calls `AFTER_IMPORT[module]` when a module has been imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in AFTER_IMPORT:
            return None
        spec = PathFinder.find_spec(fullname, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            AFTER_IMPORT[fullname](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterImport())
for _name, _call in AFTER_IMPORT.items():
    if _name in sys.modules:
        _call(sys.modules[_name])
