"""Pydantic models as values: written and read by pydantic, refused where they would come back changed.

A type that is a model, or has models among its arguments (`list[User]`, `User | None`, `Page[User]`), is
encoded by this codec without more ado. `codecs={User: PydanticCodec(User, version="2")}` makes one by hand.
"""

from sansio_cache_pydantic.codec import PydanticCodec

__all__ = ["PydanticCodec"]
