from .builder import BuildOptions as BuildOptions
from .building import build_store as build_store
from .notebook import Explorer as Explorer
from .notebook import show as show
