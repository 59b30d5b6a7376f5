"""What checks annotations at run time: whole numbers count as real ones, as in Python's own typing."""
from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
