"""SViTT for Transformers: sparse video-text transformers (CVPR 2023) for retrieval and question answering."""

from .configuration_svitt import *  # noqa: F403
from .modeling_svitt import *  # noqa: F403
from .processing_svitt import *  # noqa: F403
