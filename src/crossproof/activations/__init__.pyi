from .config import Split as Split
from .corpus import TextSlice as TextSlice
from .corpus import read_sequences as read_sequences
from .harvest import Harvest as Harvest
from .positions import scored_positions as scored_positions
