from .encoder import Encoder as Encoder
from .encoder import EncoderSpec as EncoderSpec
from .encoder import load_encoder as load_encoder
from .encoder import save_encoder as save_encoder
from .extract import ExtractConfig as ExtractConfig
from .finetune import FinetuneConfig as FinetuneConfig
from .pretrain import PretrainConfig as PretrainConfig
from .workbench import Workbench as Workbench
