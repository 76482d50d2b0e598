"""Declared types ↔ IPLD data: how a user's frozen dataclass or pydantic model becomes a block.

The encoder walks the *declared* types and refuses whatever the strict decoder would not give back,
so that nothing is ever stored which cannot be read again. The decoder rebuilds containers first
and then lets pydantic judge every field strictly, constraints included.

Declared types: None, bool, int, float, str, bytes, CID, Literal, Enum, tuple[T, ...],
tuple[A, B], frozenset[T], Mapping[str, T], unions, other frozen dataclasses and models, and
`Data` (any plain IPLD value, frozen on the way in). Mutable containers are refused by name.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping, Set
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typing_extensions
from pydantic import AfterValidator, BaseModel, ConfigDict, InstanceOf, TypeAdapter, ValidationError

from stmflow import codec, wire
from stmflow.cid import CID
from stmflow.errors import CodecError, InvalidWorkflow, MalformedBlock

Plain = Any
"""None, bool, int, float, str, bytes, CID, list of these or dict of text to these."""


class _AtMarker:
    """Marks the field of an event that the transactor fills with the revision's `at`."""


class _DataMarker:
    """Marks a field that holds any plain IPLD value."""


At = Annotated[int, _AtMarker()]
"""An event field of this type is filled by the transactor: milliseconds since 1970, UTC."""

Data = Annotated[Any, _DataMarker()]
"""Any plain IPLD value. Lists arrive as tuples and maps as read-only mappings."""


class Coder(NamedTuple):
    """One declared type: how a value is written (as DAG-CBOR bytes), how its plain form is read,
    and which Python and plain types it takes."""

    write: Callable[[Any], bytes]
    read: Callable[[Plain], Any]
    python: frozenset[type]
    plain: frozenset[type]


def _wrong(expected: str, value: object) -> MalformedBlock:
    return MalformedBlock(f"expected {expected}, got {type(value).__name__}")


def freeze(value: Plain) -> Any:
    """The same IPLD value with tuples for lists and read-only mappings for maps."""
    kind = type(value)
    if kind is list or kind is tuple:
        return tuple(freeze(item) for item in value)
    if kind is dict or kind is types.MappingProxyType:
        return types.MappingProxyType({key: freeze(item) for key, item in value.items()})
    return value


def thaw(value: Any) -> Plain:
    """The inverse of `freeze`: what the codec takes."""
    kind = type(value)
    if kind is tuple or kind is list:
        return [thaw(item) for item in value]
    if kind is types.MappingProxyType or kind is dict:
        return {key: thaw(item) for key, item in value.items()}
    return value


def _atom(kind: type, name: str, piece: Callable[[Any], bytes]) -> Coder:
    def write(value: Any) -> bytes:
        if type(value) is not kind:
            raise _wrong(name, value)
        return piece(value)

    def read(value: Plain) -> Any:
        if type(value) is not kind:
            raise _wrong(name, value)
        return value

    return Coder(write, read, frozenset({kind}), frozenset({kind}))


def _enum(kind: type[enum.Enum]) -> Coder:
    for member in kind:
        if type(member.value) not in (str, int):
            raise InvalidWorkflow(f"{kind.__name__}.{member.name} is neither text nor an integer")

    def write(value: Any) -> bytes:
        if type(value) is not kind:
            raise _wrong(kind.__name__, value)
        return codec.encode(value.value)

    def read(value: Plain) -> Any:
        for member in kind:
            if member.value == value and type(member.value) is type(value):
                return member
        raise MalformedBlock(f"{value!r} is not a {kind.__name__}")

    plain = frozenset(type(member.value) for member in kind)
    return Coder(write, read, frozenset({kind}), plain)


def _literal(options: tuple[Any, ...]) -> Coder:
    allowed = {(type(option), option): codec.encode(option) for option in options}

    def write(value: Any) -> bytes:
        read(value)
        return allowed[(type(value), value)]

    def read(value: Plain) -> Any:
        if (type(value), value) not in allowed:
            raise MalformedBlock(f"{value!r} is not one of {', '.join(map(repr, options))}")
        return value

    taken = frozenset(type(option) for option in options)
    return Coder(write, read, taken, taken)


def _sequence(item: Coder) -> Coder:
    write_item, read_item = item.write, item.read

    def write(value: Any) -> bytes:
        if type(value) is not tuple:
            raise _wrong("a tuple", value)
        return wire.array([write_item(one) for one in value])

    def read(value: Plain) -> Any:
        if type(value) is not list:
            raise _wrong("a list", value)
        return tuple([read_item(one) for one in value])

    return Coder(write, read, frozenset({tuple}), frozenset({list}))


def _record(items: tuple[Coder, ...]) -> Coder:
    def write(value: Any) -> bytes:
        if type(value) is not tuple or len(value) != len(items):
            raise _wrong(f"a tuple of {len(items)}", value)
        return wire.array([item.write(one) for item, one in zip(items, value, strict=True)])

    def read(value: Plain) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise _wrong(f"a list of {len(items)}", value)
        return tuple([item.read(one) for item, one in zip(items, value, strict=True)])

    return Coder(write, read, frozenset({tuple}), frozenset({list}))


def _set(item: Coder) -> Coder:
    def write(value: Any) -> bytes:
        if type(value) is not frozenset:
            raise _wrong("a frozenset", value)
        return wire.array(sorted([item.write(one) for one in value]))

    def read(value: Plain) -> Any:
        if type(value) is not list:
            raise _wrong("a list", value)
        keys = [codec.encode(one) for one in value]
        if any(a >= b for a, b in pairwise(keys)):
            raise MalformedBlock("a set is written in order and without repeats")
        return frozenset([item.read(one) for one in value])

    return Coder(write, read, frozenset({frozenset}), frozenset({list}))


def _mapping(item: Coder) -> Coder:
    write_item, read_item = item.write, item.read

    def write(value: Any) -> bytes:
        if type(value) not in (dict, types.MappingProxyType):
            raise _wrong("a mapping", value)
        for name in value:
            if type(name) is not str:
                raise _wrong("a text key", name)
        try:
            names = wire.canonical(list(value))
        except UnicodeEncodeError:
            raise MalformedBlock("a lone surrogate in the name of a field") from None
        return wire.mapping(names)([write_item(value[name]) for name in names])

    def read(value: Plain) -> Any:
        if type(value) is not dict:
            raise _wrong("a map", value)
        return types.MappingProxyType({key: read_item(one) for key, one in value.items()})

    return Coder(write, read, frozenset({dict, types.MappingProxyType}), frozenset({dict}))


def _data() -> Coder:
    return Coder(
        lambda value: codec.encode(thaw(value)), freeze, frozenset({object}), frozenset({object})
    )


def _nested(kind: type) -> Coder:
    schema = schema_of(kind)

    def write(value: Any) -> bytes:
        if type(value) is not kind:
            raise _wrong(kind.__name__, value)
        return schema.write(value)

    def read(value: Plain) -> Any:
        if type(value) is not dict:
            raise _wrong("a map", value)
        return schema.decode(value)

    return Coder(write, read, frozenset({kind}), frozenset({dict}))


def _tagged(schema: Schema) -> Coder:
    join = wire.mapping(["f", "t"])
    tag = wire.text(schema.tag)
    return Coder(
        lambda value: join([schema.write(value), tag]),
        lambda value: schema.decode(value["f"]),
        frozenset({schema.type}),
        frozenset({dict}),
    )


def _union(options: tuple[Any, ...]) -> Coder:
    """Members are told apart by their plain kind, several records by their tag."""
    if any(_is_data(option) for option in options):
        return _data()
    records = [schema_of(option) for option in options if is_record(option)]
    if len({schema.tag for schema in records}) < len(records):
        raise InvalidWorkflow(f"two members of {options} have the same tag")
    tagged = {schema.tag: _tagged(schema) for schema in records} if len(records) > 1 else {}
    coders = list(tagged.values()) or [_nested(schema.type) for schema in records]
    coders += [coder_of(option) for option in options if not is_record(option)]
    by_python: dict[type, Coder] = {}
    by_plain: dict[type, Coder] = {}
    for coder in coders:
        for kind in coder.python:
            by_python[kind] = coder
        for kind in coder.plain:
            if by_plain.setdefault(kind, coder) is not coder and coder not in tagged.values():
                raise InvalidWorkflow(f"cannot tell the members of {options} apart when read back")
    expected = " or ".join(sorted(kind.__name__ for kind in by_python))

    def write(value: Any) -> bytes:
        coder = by_python.get(type(value))
        if coder is None:
            raise _wrong(expected, value)
        return coder.write(value)

    def read(value: Plain) -> Any:
        coder = by_plain.get(type(value))
        if coder is None:
            raise _wrong(expected, value)
        if type(value) is dict and tagged:
            if set(value) != {"t", "f"} or value["t"] not in tagged or type(value["f"]) is not dict:
                raise MalformedBlock(f"expected one of {', '.join(sorted(tagged))}")
            coder = tagged[value["t"]]
        return coder.read(value)

    return Coder(write, read, frozenset(by_python), frozenset(by_plain))


_ATOMS: dict[Any, Coder] = {
    int: _atom(int, "an integer", wire.integer),
    bool: _atom(bool, "a boolean", lambda value: wire.TRUE if value else wire.FALSE),
    str: _atom(str, "text", wire.text),
    bytes: _atom(bytes, "bytes", wire.octets),
    float: _atom(float, "a float", wire.real),
    CID: _atom(CID, "a link", wire.link),
    type(None): _atom(type(None), "null", lambda value: wire.NULL),
}
_ATOMS[None] = _ATOMS[type(None)]


def coder_of(annotation: Any) -> Coder:
    """How values of a declared type are written and read.

    Raises:
        InvalidWorkflow: the type cannot be stored (mutable, unknown, or ambiguous when read back).
    """
    if annotation in _ATOMS:
        return _ATOMS[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _data() if any(isinstance(m, _DataMarker) for m in args[1:]) else coder_of(args[0])
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is Literal:
        return _literal(args)
    if origin is tuple and args:
        return (
            _sequence(coder_of(args[0])) if args[-1] is ... else _record(tuple(map(coder_of, args)))
        )
    if origin in (frozenset, Set) and args:
        return _set(coder_of(args[0]))
    if origin is Mapping and args and args[0] is str:
        return _mapping(coder_of(args[1]))
    if is_record(annotation):
        return _nested(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _enum(annotation)
    hint = {list: "tuple[T, ...]", dict: "Mapping[str, T]", set: "frozenset[T]"}.get(
        origin or annotation
    )
    raise InvalidWorkflow(
        f"{annotation!r} cannot be stored" + (f": declare {hint}" if hint else "")
    )


def is_record(kind: Any) -> bool:
    """Whether a declared type is a dataclass or a pydantic model."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)
    )


def tag_of(kind: type) -> str:
    """The name under which a type is stored: its `tag` attribute, else its own name."""
    tag = getattr(kind, "tag", None)
    return tag if isinstance(tag, str) else kind.__name__


class Schema:
    """One declared record type: `write` gives its fields as DAG-CBOR, `decode` takes them back.

    Attributes:
        type: the frozen dataclass or model.
        tag: the name under which it is stored.
        at: the name of its `At` field, or None.
        free: the names of its other fields, in declared order.
        loose: whether it holds `Data` or mappings, so that a value may be deeper, or less frozen,
            than what is read back.
    """

    __slots__ = (
        "_checked",
        "_join",
        "_names",
        "_read",
        "_validate",
        "_write",
        "at",
        "free",
        "loose",
        "tag",
        "type",
    )

    def __init__(self, kind: type) -> None:
        annotations = _annotations(kind)
        self.type = kind
        self.tag = tag_of(kind)
        self.at = next((name for name, hint in annotations.items() if _is_at(hint)), None)
        self.free = tuple(name for name in annotations if name != self.at)
        ordered = wire.canonical(list(annotations))
        coders = [(name, coder_of(annotations[name])) for name in ordered]
        self._write = tuple((name, coder.write) for name, coder in coders)
        self._read = tuple((name, coder.read) for name, coder in coders)
        self._names = frozenset(ordered)
        self._join = wire.mapping(ordered)
        self._validate = _validator(kind, annotations)
        self.loose = any(map(_loose, annotations.values()))
        self._checked = _has_rules(kind, annotations)

    def write(self, value: Any) -> bytes:
        """The fields of `value` as a DAG-CBOR map.

        Raises:
            MalformedBlock: a field holds what its declared type would not give back.
        """
        try:
            data = self._join([write(getattr(value, name)) for name, write in self._write])
        except (CodecError, AttributeError) as error:
            raise type(error)(f"{self.tag}: {self._blame(value)}{error}") from None
        if self._checked:
            self.decode(codec.decode(data))
        return data

    def encode(self, value: Any) -> dict[str, Plain]:
        """The fields of `value` as plain data. Raises MalformedBlock."""
        fields: dict[str, Plain] = codec.decode(self.write(value))
        return fields

    def decode(self, fields: Mapping[str, Plain]) -> Any:
        """The value whose fields these are; every field present, none unknown, all valid.

        Raises:
            MalformedBlock: says which field and why.
        """
        if fields.keys() != self._names:
            raise MalformedBlock(f"{self.tag}: {_difference(set(fields), self._names)}")
        values = {}
        for name, read in self._read:
            try:
                values[name] = read(fields[name])
            except MalformedBlock as error:
                raise MalformedBlock(f"{self.tag}.{name}: {error}") from None
        return self._validate(values)

    def dated(self, value: Any, at: int) -> Any:
        """The same value with its `At` field, if it has one, set to that time."""
        if self.at is None or getattr(value, self.at) == at:
            return value
        if isinstance(value, BaseModel):
            return value.model_copy(update={self.at: at})
        return dataclasses.replace(value, **{self.at: at})

    def _blame(self, value: Any) -> str:
        for name, write in self._write:
            try:
                write(getattr(value, name))
            except (CodecError, AttributeError):
                return f"{name}: "
        return ""


def _difference(found: set[str], declared: frozenset[str]) -> str:
    missing = ", ".join(sorted(declared - found))
    unknown = ", ".join(sorted(found - declared))
    return "; ".join(
        part
        for part in (missing and f"missing {missing}", unknown and f"unknown {unknown}")
        if part
    )


_schemas: dict[type, Schema] = {}
_making: set[type] = set()


def schema_of(kind: type) -> Schema:
    """The schema of a frozen dataclass or model, made once.

    Raises:
        InvalidWorkflow: it is neither, it is not frozen, or a field cannot be stored.
    """
    known = _schemas.get(kind)
    if known is None:
        if kind in _making:
            raise InvalidWorkflow(f"{kind.__name__} cannot be stored: it contains itself")
        _making.add(kind)
        try:
            known = _schemas[kind] = Schema(kind)
        finally:
            _making.discard(kind)
    return known


def _annotations(kind: type) -> dict[str, Any]:
    if not is_record(kind):
        raise InvalidWorkflow(f"{kind!r} is neither a dataclass nor a pydantic model")
    if issubclass(kind, BaseModel):
        if not kind.model_config.get("frozen"):
            raise InvalidWorkflow(f"{kind.__name__} is not frozen: model_config frozen=True")
        return {
            name: Annotated[field.annotation, *field.metadata]
            if field.metadata
            else field.annotation
            for name, field in kind.model_fields.items()
        }
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InvalidWorkflow(f"{kind.__name__} is not frozen: @dataclass(frozen=True)")
    try:
        hints = typing_extensions.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise InvalidWorkflow(
            f"{kind.__name__}: {error}; declare its types at module level"
        ) from None
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return {field.name: hints[field.name] for field in fields if field.init}


def _is_at(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(
        isinstance(mark, _AtMarker) for mark in get_args(hint)[1:]
    )


_CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


def _validator(kind: type, annotations: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Pydantic's strict judgement of a dict of already rebuilt field values."""

    def refuse(error: ValidationError) -> MalformedBlock:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return MalformedBlock(f"{tag_of(kind)}.{where}: {first['msg']}")

    if issubclass(kind, BaseModel):
        maps = [name for name, hint in annotations.items() if _has_mapping(hint)]

        def model(values: dict[str, Any]) -> Any:
            values |= {name: _dicts(values[name]) for name in maps}
            try:
                return kind.model_validate(values, strict=True, by_name=True)
            except ValidationError as error:
                raise refuse(error) from None
            except Exception as error:
                raise MalformedBlock(f"{tag_of(kind)}: {error!r}") from None

        return model

    fields = {name: _for_pydantic(hint) for name, hint in annotations.items()}
    make: Any = typing_extensions.TypedDict
    shape = make(kind.__name__, fields)
    shape.__pydantic_config__ = _CONFIG
    adapter: TypeAdapter[Any] = TypeAdapter(shape)

    def record(values: dict[str, Any]) -> Any:
        try:
            return kind(**adapter.validate_python(values))
        except ValidationError as error:
            raise refuse(error) from None
        except Exception as error:
            raise MalformedBlock(f"{tag_of(kind)}: {error!r}") from None

    return record


def _loose(hint: Any) -> bool:
    if is_record(hint):
        return schema_of(hint).loose
    return _is_data(hint) or get_origin(hint) is Mapping or any(map(_loose, get_args(hint)))


def _has_mapping(hint: Any) -> bool:
    return get_origin(hint) is Mapping or any(map(_has_mapping, get_args(hint)))


def _dicts(value: Any) -> Any:
    """The value with a dict for each mapping, the only kind that a strict model takes."""
    if type(value) is types.MappingProxyType:
        return {key: _dicts(item) for key, item in value.items()}
    return tuple(map(_dicts, value)) if type(value) is tuple else value


def _for_pydantic(hint: Any) -> Any:
    """Records inside are built already: pydantic checks that they are instances, no more."""
    origin, args = get_origin(hint), get_args(hint)
    if is_record(hint):
        instance: Any = InstanceOf
        return instance[hint]
    if origin is Annotated:
        if _is_data(hint):
            return Any
        return Annotated[_for_pydantic(args[0]), *args[1:]]
    if origin in (Union, types.UnionType):
        return reduce(or_, [_for_pydantic(arg) for arg in args])
    if origin is Mapping:
        kept = InstanceOf[types.MappingProxyType[str, Any]]
        return Annotated[kept, _judge_items(args[1])] if _constrained(args[1]) else kept
    if origin is tuple:
        inner = tuple(arg if arg is ... else _for_pydantic(arg) for arg in args)
        return types.GenericAlias(tuple, inner)
    if origin in (frozenset, Set):
        return types.GenericAlias(frozenset, (_for_pydantic(args[0]),))
    return hint


def _judge_items(hint: Any) -> AfterValidator:
    """Judges the values of a mapping, which pydantic is shown as an opaque instance."""
    shape: Any = types.GenericAlias(dict, (str, _for_pydantic(hint)))
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    items: TypeAdapter[Any] = TypeAdapter(shape, config=config)

    def judge(value: Mapping[str, Any]) -> Mapping[str, Any]:
        items.validate_python(dict(value))
        return value

    return AfterValidator(judge)


def _is_data(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(
        isinstance(mark, _DataMarker) for mark in get_args(hint)[1:]
    )


def _has_rules(kind: type, annotations: dict[str, Any]) -> bool:
    """Whether a value may pass the type walk and still be refused: constraints, validators."""
    if issubclass(kind, BaseModel):
        decorators = kind.__pydantic_decorators__
        if decorators.field_validators or decorators.model_validators or decorators.validators:
            return True
    elif hasattr(kind, "__post_init__"):
        return True
    return any(_constrained(hint) for hint in annotations.values())


def _constrained(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        marks = [m for m in get_args(hint)[1:] if not isinstance(m, (_AtMarker, _DataMarker))]
        return bool(marks) or _constrained(get_args(hint)[0])
    return any(_constrained(arg) for arg in get_args(hint) if arg is not ...)
