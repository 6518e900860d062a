"""Files of fitted things: tensors and plain values in one safetensors file, checked byte by byte, nothing to run."""

from sggp.persistence.container import (
    FORMAT_VERSION,
    is_safetensors,
    read_content,
    read_labels,
    rebuilding,
    write_content,
)

__all__ = [
    "FORMAT_VERSION",
    "is_safetensors",
    "read_content",
    "read_labels",
    "rebuilding",
    "write_content",
]
