from .foreign import ForeignDictionary as ForeignDictionary
from .importing import import_dictionaries as import_dictionaries
from .importing import import_dictionary as import_dictionary
from .registry import FORMATS as FORMATS
from .registry import register_format as register_format
from .writers.exporting import export as export
