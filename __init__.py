"""SViTT for Transformers: sparse video-text transformers (CVPR 2023) for retrieval and question answering."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

# The one that `transformers` exports is a dummy where torchvision is absent; the class itself needs none.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .configuration_svitt import *  # noqa: F403
from .configuration_svitt import SViTTConfig
from .modeling_svitt import *  # noqa: F403
from .modeling_svitt import SViTTForPreTraining, SViTTForVideoClassification, SViTTForVideoQuestionAnswering, SViTTModel
from .processing_svitt import *  # noqa: F403
from .processing_svitt import SViTTProcessor, SViTTVideoProcessor

# Where this package is installed, the Auto classes load our folders without remote code.
AutoConfig.register(SViTTConfig.model_type, SViTTConfig)
AutoModel.register(SViTTConfig, SViTTModel)
AutoModelForPreTraining.register(SViTTConfig, SViTTForPreTraining)
AutoModelForVisualQuestionAnswering.register(SViTTConfig, SViTTForVideoQuestionAnswering)
AutoModelForVideoClassification.register(SViTTConfig, SViTTForVideoClassification)
AutoProcessor.register(SViTTConfig, SViTTProcessor)
AutoVideoProcessor.register(SViTTConfig, SViTTVideoProcessor)
