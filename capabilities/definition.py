"""A capability as data: its command, its arguments, whom it is about, how it may be narrowed.

One definition serves both families. In ucanto the command is "store/add", arguments are the caveats
`nb`, and `derives` says when a delegated caveat allows what is claimed. In UCAN 1.0 the command is
"/store/add" (`Capability.path`), arguments are `args`, and policies do the narrowing.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Add:
    ...     link: CID
    ...     size: Size
    ...     origin: CID | None = None
    >>> store_add = Capability("store/add", Add, derives=all_of(equal("link"), at_most("size")))
    >>> store_add.path
    '/store/add'
    >>> link = CID.parse("bagbaierasqyiez6rprrvfuocxljftttj735dq3rcqcc6gqg4s4ykxb63cxgq")
    >>> add = store_add.read({"link": link, "size": 100, "unknown": "is dropped"})
    >>> add.size
    100
    >>> store_add.derives(add, {"link": link, "size": 99})
    'size: 100 is more than 99'
    >>> store_add.read({"link": link, "size": -1})
    Traceback (most recent call last):
    stmflow.errors.InvalidClaim: store/add: size: Input should be greater than or equal to 0
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import reduce
from operator import or_
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    TypeAlias,
    Union,
    cast,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from typing_extensions import TypedDict

from capabilities.did import DID
from stmflow.cid import CID
from stmflow.errors import CodecError, InvalidClaim, InvalidDID
from stmflow.limits import LIMITS

Size: TypeAlias = Annotated[int, Field(ge=0, le=LIMITS.ucan_int_max)]
"""A number of bytes: 0 to 2**53 - 1; no bool, float or negative number."""

Derives: TypeAlias = Callable[[Any, Mapping[str, Any]], str | None]
"""(arguments that are claimed, those that a proof fixes) -> None, or why they are not within it."""

Subject: TypeAlias = Literal["did:key", "did"]

_COMMAND: Final = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)+")


# How a claim is held against a proof.


def same(claimed: Any, proof: Mapping[str, Any]) -> str | None:
    """Every argument that the proof fixes is claimed exactly so: the rule where none is given."""
    faults = (_unequal(name, _named(claimed, name), given) for name, given in proof.items())
    return next((fault for fault in faults if fault is not None), None)


def equal(path: str) -> Derives:
    """The argument is claimed as the proof fixes it, if it does. `path`: `link`, `blob.digest`."""

    def check(claimed: Any, proof: Mapping[str, Any]) -> str | None:
        given = _get(proof, path)
        return None if given is None else _unequal(path, _get(claimed, path), given)

    return check


def at_most(path: str) -> Derives:
    """The argument, a number, is no more than the proof fixes, if it does."""

    def check(claimed: Any, proof: Mapping[str, Any]) -> str | None:
        given = _get(proof, path)
        if given is None:
            return None
        asked = _get(claimed, path)
        if type(asked) is int and type(given) is int and asked <= given:
            return None
        return f"{path}: {_show(asked)} is more than {_show(given)}"

    return check


def all_of(*rules: Derives) -> Derives:
    """Every one of the rules. An argument that none of them names may be anything."""

    def check(claimed: Any, proof: Mapping[str, Any]) -> str | None:
        return next((fault for rule in rules if (fault := rule(claimed, proof)) is not None), None)

    return check


def _unequal(path: str, asked: Any, given: Any) -> str | None:
    return None if _same(asked, given) else f"{path}: {_show(asked)} is not {_show(given)}"


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all through: Python takes 1, 1.0 and true for one value."""
    return type(one) is type(other) and one == other and all(map(_same, _parts(one), _parts(other)))


def _parts(value: Any) -> Iterable[Any]:
    """What arguments are made of: of two that are equal, in the same order."""
    if isinstance(value, Mapping):
        return [value[key] for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, BaseModel):
        return [item for _, item in value]
    if dataclasses.is_dataclass(value):
        return [getattr(value, each.name) for each in dataclasses.fields(value)]
    return ()


def _get(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where the path ends early."""
    for name in path.split("."):
        value = _named(value, name)
    return value


def _named(value: Any, name: str) -> Any:
    """What a map has, or arguments have, under a name on the wire."""
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, BaseModel):
        name = _attributes(type(value)).get(name, name)
    return getattr(value, name, None)


def _show(value: object) -> str:
    return "nothing" if value is None else f"{value!s:.80}"


@final
@dataclass(frozen=True, slots=True)
class NoArguments:
    """The arguments of a command that takes none."""


@final
@dataclass(frozen=True, slots=True)
class Capability:
    """What may be asked for under one name.

    Attributes:
        command: lower-case segments, at least two: "store/add".
        arguments: a frozen dataclass, or a pydantic model; every field is checked strictly (links
            are CIDs, no number is a bool, bytes are bytes), unknown ones are dropped. A list on the
            wire is `tuple[T, ...]` in a dataclass, `list[T]` in a model.
        subject: what it may be about: a "did:key", or any "did".
        derives: a pure function of the arguments claimed and those that a proof fixes (by name,
            and only these); returns None, or in words what the proof does not allow.
        fields: the names of the arguments on the wire.

    Raises `TypeError` or `ValueError` where it is made for what cannot work.
    """

    command: str
    arguments: type[Any] = NoArguments
    _: KW_ONLY
    subject: Subject = "did:key"
    derives: Derives = same
    fields: frozenset[str] = field(init=False, repr=False, compare=False)
    _attributes: Mapping[str, str] = field(init=False, repr=False, compare=False)
    _adapter: TypeAdapter[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _COMMAND.fullmatch(self.command):
            raise ValueError(f"not a command such as 'store/add': {self.command!r}")
        if self.subject not in get_args(Subject):
            raise ValueError(f"subject is 'did:key' or 'did', not {self.subject!r}")
        attributes = _attributes(self.arguments)
        object.__setattr__(self, "_attributes", attributes)
        object.__setattr__(self, "fields", frozenset(attributes))
        object.__setattr__(self, "_adapter", _adapter(self.arguments))

    @property
    def path(self) -> str:
        """The command as UCAN 1.0 writes it: "/store/add"."""
        return f"/{self.command}"

    def read(self, arguments: Mapping[str, Any], *, text_links: bool = False) -> Any:
        """Return the arguments as their declared type. Raises `InvalidClaim`.

        `text_links` also takes the text of a CID (in base32) where a dataclass declares one, for
        UCAN 1.0 clients that cannot send links in arguments.
        """
        try:
            return self._adapter.validate_python(dict(arguments), strict=True, context=text_links)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidClaim(f"{self.command}: {place:.80}: {first['msg']:.200}") from None

    def fixed(self, arguments: Any, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the arguments that have these names: what `derives` gets of a proof."""
        return {name: getattr(arguments, self._attributes[name]) for name in names}

    def about(self, resource: str) -> DID:
        """Return the subject that `resource` names. Raises `InvalidClaim`."""
        try:
            did = DID.parse(resource)
        except (InvalidDID, CodecError) as error:
            raise InvalidClaim(f"{self.command}: it is about a {self.subject}: {error}") from None
        if self.subject == "did:key" and did.method != "key":
            raise InvalidClaim(f"{self.command}: it is about a did:key, not {did}")
        return did


# Declared types, as what pydantic takes strictly. In strict mode it takes a model from a map, but
# not a dataclass, and no tuple from a list.


def _attributes(kind: type[Any]) -> dict[str, str]:
    """The arguments by their names on the wire."""
    if dataclasses.is_dataclass(kind):
        return {each.name: each.name for each in dataclasses.fields(kind)}
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise TypeError(f"arguments are a frozen dataclass or a pydantic model, not {kind!r}")
    return {_wire_name(name, each): name for name, each in kind.model_fields.items()}


def _wire_name(name: str, declared: Any) -> str:
    alias = declared.validation_alias or name
    if not isinstance(alias, str):
        raise TypeError(f"{name}: an alias is one name")
    return alias


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(kind) if dataclasses.is_dataclass(kind) else kind)


def _strict(annotation: Any) -> Any:
    """The same declared type, to be read from what the codec gives."""
    if annotation is CID:
        return Annotated[CID, BeforeValidator(_link)]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _record(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_strict(args[0]), *annotation.__metadata__)]
    if origin is Literal:
        return Annotated[annotation, BeforeValidator(_number_of({*map(type, args)}))]
    if origin in (Union, UnionType):
        return reduce(or_, map(_strict, args))
    if origin is tuple:
        items = tuple(each if each is ... else _strict(each) for each in args)
        return Annotated[tuple[items], BeforeValidator(_tuple)]  # type: ignore[valid-type]
    if origin in (list, dict, Mapping):
        return origin[tuple(map(_strict, args))]
    return annotation


def _record(kind: type[Any]) -> Any:
    """A dataclass, read from a map."""
    if not kind.__dataclass_params__.frozen:
        raise TypeError(f"{kind.__name__} has to be frozen")
    hints = get_type_hints(kind, include_extras=True)
    fields = {each.name: _field(each, hints[each.name]) for each in dataclasses.fields(kind)}
    shape = cast("Any", TypedDict)(kind.__name__, fields)
    shape.__pydantic_config__ = ConfigDict(extra="ignore", strict=True)
    return Annotated[shape, AfterValidator(lambda values: kind(**values))]


def _field(declared: dataclasses.Field[Any], hint: Any) -> Any:
    required = (declared.default, declared.default_factory) == (
        dataclasses.MISSING,
        dataclasses.MISSING,
    )
    return _strict(hint) if required else NotRequired[_strict(hint)]


def _number_of(kinds: Collection[type]) -> Callable[[object], object]:
    """Take numbers of these types alone: pydantic finds true and 1.0 in `Literal[1]`."""

    def check(value: object) -> object:
        if isinstance(value, (int, float)) and type(value) not in kinds:
            raise ValueError(f"no {type(value).__name__} is among the declared values")
        return value

    return check


def _tuple(value: object) -> object:
    return tuple(value) if type(value) is list else value


def _link(value: object, info: ValidationInfo) -> object:
    """A link, or its text where that is taken: one text, or a policy could be got round."""
    if info.context is True and type(value) is str and str(link := CID.parse(value)) == value:
        return link
    return value
