# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""SViTT for Transformers: sparse video-text transformers (CVPR 2023) for retrieval and question answering.

Importing the package loads nothing; a name loads its module when it is first used.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

# What the package offers, by module. Configurations come with the models, lest the Auto classes know only the former.
NAMES = {
    "modeling_svitt": [
        "SViTTConfig",
        "SViTTForPreTraining",
        "SViTTForVideoClassification",
        "SViTTForVideoQuestionAnswering",
        "SViTTForVideoTextRetrieval",
        "SViTTModel",
        "SViTTPreTrainedModel",
        "SViTTTextConfig",
        "SViTTTextDecoder",
        "SViTTTextDecoderConfig",
        "SViTTTextModel",
        "SViTTVisionConfig",
        "SViTTVisionModel",
        "fixed_block_pattern",
    ],
    "processing_svitt": [
        "SViTTProcessor",
        "SViTTVideoProcessor",
        "VideoDecodeError",
        "clean_text",
        "read_video",
        "sample_frame_indices",
    ],
    "errors": ["InputError"],
    "search": ["SViTTIndex"],
    "training.trainer": ["SViTTTrainer", "SViTTTrainingArguments"],
}
MODULE_OF = {name: module for module, names in NAMES.items() for name in names}
__all__ = list(MODULE_OF)


def __getattr__(name: str):
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# ----------------------------------------------------------------------------------------------------
# Where this package is imported, the Auto classes load our folders without remote code. They take classes, and loading
# ours takes seconds: they get stand-ins when Transformers loads them, and ours as soon as these have been loaded.
# ----------------------------------------------------------------------------------------------------


class StandIn(type):
    """Class of classes that are known by the name of one of ours, which is loaded for whatever is asked of them."""

    def __getattr__(cls, attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(cls.loaded(), attribute)

    def __call__(cls, *args, **kwargs):
        return cls.loaded()(*args, **kwargs)

    def loaded(cls) -> type:
        return __getattr__(cls.__name__)


CONFIG, PROCESSOR, VIDEO_PROCESSOR = (
    StandIn(name, (), {"__module__": __name__}) for name in ("SViTTConfig", "SViTTProcessor", "SViTTVideoProcessor")
)


def register_classes(modeling_svitt):
    transformers = import_module("transformers")
    config_class, processor_class = modeling_svitt.SViTTConfig, __getattr__("SViTTProcessor")
    transformers.AutoConfig.register("svitt", config_class)
    transformers.AutoModel.register(config_class, modeling_svitt.SViTTModel)
    transformers.AutoModelForPreTraining.register(config_class, modeling_svitt.SViTTForPreTraining)
    transformers.AutoModelForVisualQuestionAnswering.register(
        config_class, modeling_svitt.SViTTForVideoQuestionAnswering
    )
    transformers.AutoModelForVideoClassification.register(config_class, modeling_svitt.SViTTForVideoClassification)
    transformers.AutoProcessor.register(config_class, processor_class)
    # The one that `transformers` exports is a dummy where torchvision is absent; the class itself needs none.
    video_auto = import_module("transformers.models.auto.video_processing_auto")
    video_auto.AutoVideoProcessor.register(config_class, __getattr__("SViTTVideoProcessor"))


AFTER_IMPORT = {
    "transformers.models.auto.configuration_auto": lambda module: module.AutoConfig.register("svitt", CONFIG),
    "transformers.models.auto.processing_auto": lambda module: module.AutoProcessor.register(CONFIG, PROCESSOR),
    "transformers.models.auto.video_processing_auto": lambda module: module.AutoVideoProcessor.register(
        CONFIG, VIDEO_PROCESSOR
    ),
    f"{__name__}.modeling_svitt": register_classes,
}


class AfterImport(MetaPathFinder):
    """Calls `AFTER_IMPORT[module]` when a module has been imported."""

    def find_spec(self, fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path) if fullname in AFTER_IMPORT else None
        if spec is not None:
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
