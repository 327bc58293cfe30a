"""Codecs: how the values of a type become bytes, and come back.

JSON is what every type has without saying so. Another codec is chosen for a type with the option `codecs`:

    Cache.from_url(url, namespace="shop", codecs={bytes: RAW, Basket: Compressed(JsonCodec(Basket))})

A codec of your own is any object with the three members of `ValueCodec`.
"""

from sansio_cache.codecs.compressed import Compressed
from sansio_cache.codecs.json import JsonCodec
from sansio_cache.codecs.python import PYTHON, PythonCodec
from sansio_cache.codecs.raw import RAW, RawCodec
from sansio_cache.codecs.value_codec import Checked, Undecodable, ValueCodec

__all__ = [
    "PYTHON",
    "RAW",
    "Checked",
    "Compressed",
    "JsonCodec",
    "PythonCodec",
    "RawCodec",
    "Undecodable",
    "ValueCodec",
]
