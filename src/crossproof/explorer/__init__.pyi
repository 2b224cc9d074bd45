from .notebook import Explorer as Explorer
from .notebook import show as show
