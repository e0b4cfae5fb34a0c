"""Reads claims that an issuer names otherwise as fast as those with standard names.

Claims with standard names are read by :class:`revoker.models.Payload`: one pass of msgspec, and no copy. For
an issuer with other names, the same attributes have those names in JSON. This covers the usual case: of every
attribute the first of its names, with a value of the right type. All else is read member by member, with the
same result (:func:`revoker.tokens.claims.identity_of`).
"""

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import msgspec

from revoker.bounded_cache import CACHED_CHARACTERS
from revoker.models import Issuer, Payload, RevocableClaims, RevocableValues
from revoker.rules import revocable_value

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Scalar = Annotated[str, msgspec.Meta(max_length=CACHED_CHARACTERS)] | int | float | None
"""Of a revocable claim; a list is read member by member, and so is a text too long to be cached."""

_OTHER_MEMBERS: Final = frozenset(
    ("token", "claims", "header", "kid", "iss", "iat", "exp", "aud", "auth_time", "nbf")
)
"""Members of a body, and claims, that no issuer names otherwise."""

_Base = TypeVar("_Base", bound=Payload)


class MappedClaims:
    """How the claims of one issuer are read."""

    def __init__(self, issuer: Issuer) -> None:
        """``issuer`` has names of its own.

        Raises:
            ValueError: two attributes have the same first name, so one type can't read both.
        """
        names = issuer.claim_names
        assert names is not None  # noqa: S101  # otherwise there is nothing to map
        self._issuer = issuer
        names_of = {
            "jti": names.jti,
            "sub": names.sub,
            "sid": names.sid,
            "client_id": names.client_id[:1],
            "azp": names.client_id[1:],  # everywhere the client of claims without client_id
        }
        first = {attribute: given[0] if given else attribute for attribute, given in names_of.items()}
        self._revocable = [(f"revocable_{index}", name) for index, name in enumerate(names.revocable)]
        taken = [*first.values(), *names.revocable, *_OTHER_MEMBERS]
        if len(set(taken)) < len(taken):
            raise ValueError(f"a claim of issuer {issuer.name} is read twice")
        needed = {"sub", *["jti"] * issuer.require_jti}
        needed |= {attribute for attribute, given in names_of.items() if len(given) > 1}
        # what makes claims the issuer's is part of the type: msgspec checks it while it reads
        self._fields: list[Any] = [
            ("iss", Literal[issuer.iss, *issuer.aliases]),
            ("kid", None, None),  # nothing in JSON sets it: that of a header is put there
        ]
        for attribute, name in first.items():
            if attribute in needed:
                self._fields.append((attribute, _Text, msgspec.field(name=name)))
            else:
                # without a name, a member of the standard name is none of the issuer's: not read in this way
                kind = _Text | None if names_of[attribute] else None
                self._fields.append((attribute, kind, msgspec.field(name=name, default=None)))
        self._fields += [
            (attribute, _Scalar, msgspec.field(name=name, default=None))
            for attribute, name in self._revocable
        ]

    def type_of(self, base: type[_Base], *absent: str) -> type[_Base]:
        """A type as ``base``, whose claims have the issuer's names in JSON.

        It reads no others: not those of another issuer, nor without one that the issuer's tokens have.

        Args:
            base: For claims, or a body that consists of them.
            absent: Members of ``base`` that are not there.
        """
        names = [name for _, name in self._revocable]
        values_of = _values_of([attribute for attribute, _ in self._revocable])

        def revocable_claims(claims: Any) -> RevocableClaims:
            texts = map(revocable_value, names, values_of(claims))
            return tuple([(name, text) for name, text in zip(names, texts, strict=True) if text])

        namespace: dict[str, Any] = {"named_by": self._issuer}
        if names:
            namespace |= {"revocable": property(revocable_claims), "revocable_values": property(values_of)}
        made = msgspec.defstruct(
            f"Mapped{base.__name__}",
            [*self._fields, *((name, None, None) for name in absent)],
            bases=(base,),
            namespace=namespace,
            frozen=True,
            kw_only=True,
            gc=False,
            omit_defaults=True,
        )
        return cast("type[_Base]", made)


def _values_of(attributes: Sequence[str]) -> Callable[[Any], RevocableValues]:
    """What reads the values of these attributes; of several, without a function of ours."""
    if len(attributes) > 1:
        return operator.attrgetter(*attributes)
    return lambda claims: tuple([getattr(claims, attribute) for attribute in attributes])
