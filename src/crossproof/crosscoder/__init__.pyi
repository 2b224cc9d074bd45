from .config import CrosscoderConfig as CrosscoderConfig
from .latents import SparseLatents as SparseLatents
from .model import Crosscoder as Crosscoder
from .store import Provenance as Provenance
from .store import load_crosscoder as load_crosscoder
from .store import save_crosscoder as save_crosscoder
