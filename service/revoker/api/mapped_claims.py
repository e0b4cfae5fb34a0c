"""Reads claims that an issuer names otherwise as fast as those with standard names.

Claims with standard names are read by :class:`revoker.models.Payload`: one pass of msgspec, and no copy. For
an issuer with other names, the same attributes have those names in JSON. This covers the usual case: of every
attribute the first of its names, with a value of the right type. All else is read member by member, with the
same result (:func:`revoker.tokens.claims.identity_of`).
"""

import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec

from revoker.models import Issuer, Payload, RevocableClaims
from revoker.rules import revocable_value

_Text = Annotated[str, msgspec.Meta(min_length=1)] | None
_Scalar = str | int | float | None
"""Of a revocable claim; a list is read member by member."""

_OTHER_MEMBERS: Final = frozenset(
    ("token", "claims", "header", "iss", "iat", "exp", "aud", "auth_time", "nbf")
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
        self._isses = frozenset((issuer.iss, *issuer.aliases))
        names_of = {
            "jti": names.jti,
            "sub": names.sub,
            "sid": names.sid,
            "client_id": names.client_id[:1],
            "azp": names.client_id[1:],  # everywhere the client of claims without client_id
        }
        first = {attribute: given[0] if given else attribute for attribute, given in names_of.items()}
        self._fields: list[Any] = [
            # without a name, a member of the standard name is none of the issuer's: not read in this way
            (attribute, _Text if names_of[attribute] else None, msgspec.field(name=name, default=None))
            for attribute, name in first.items()
        ]
        self._revocable = [(f"revocable_{index}", name) for index, name in enumerate(names.revocable)]
        self._fields += [
            (attribute, _Scalar, msgspec.field(name=name, default=None))
            for attribute, name in self._revocable
        ]
        taken = [*first.values(), *names.revocable, *_OTHER_MEMBERS]
        if len(set(taken)) < len(taken):
            raise ValueError(f"a claim of issuer {issuer.name} is read twice")
        several = [attribute for attribute, given in names_of.items() if len(given) > 1]
        needed = ["iss", "sub", *["jti"] * issuer.require_jti, *several]
        self._needed: Callable[[Payload], tuple[str | None, ...]] = operator.attrgetter(*needed)

    def type_of(self, base: type[_Base], **members: Any) -> type[_Base]:
        """A type as ``base``, whose claims have the issuer's names in JSON.

        Args:
            base: For claims, or a body that has them.
            members: Types of members of ``base`` that differ there.
        """
        revocable = self._revocable

        def revocable_claims(claims: Any) -> RevocableClaims:
            return tuple(
                [
                    (name, text)
                    for attribute, name in revocable
                    if (text := revocable_value(name, getattr(claims, attribute)))
                ]
            )

        made = msgspec.defstruct(
            f"Mapped{base.__name__}",
            [*self._fields, *((name, kind | None, None) for name, kind in members.items())],
            bases=(base,),
            namespace={"named_by": self._issuer, "revocable": property(revocable_claims)},
            frozen=True,
            kw_only=True,
            gc=False,
            omit_defaults=True,
        )
        return cast("type[_Base]", made)

    def has_all(self, claims: Payload) -> bool:
        """Whether claims that were read as :meth:`type_of` are the issuer's, and nothing has another name."""
        needed = self._needed(claims)
        return needed[0] in self._isses and None not in needed
