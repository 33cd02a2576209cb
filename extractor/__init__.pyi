from .encoders.encoder import Encoder as Encoder
from .encoders.folder import load_encoder as load_encoder
from .encoders.folder import save_encoder as save_encoder
from .encoders.spec import EncoderSpec as EncoderSpec
from .extraction.config import ExtractConfig as ExtractConfig
from .training.finetune import FinetuneConfig as FinetuneConfig
from .training.pretrain import PretrainConfig as PretrainConfig
from .training.workbench import Workbench as Workbench
