"""PATCH (RFC 7644 section 3.5.2): operations applied to a resource, all or none. Pure.

What senders do that the RFC does not say, and what becomes of it:

- `Add`, `Replace`, `Remove` in any case (Entra);
- keys of a value without path that are paths themselves: `"name.givenName"`, `"urn:...:User:department"` (Entra, Okta);
- `remove` with the values to remove beside the path, rather than in a filter (Entra);
- the resource's own `id` among the values without a path (Okta): it changes nothing;
- `add` into a value that does not exist yet, `emails[type eq "work"].value`: it is made, with what the filter says it
  is (Entra). `replace` of such a value is refused with `noTarget`, as section 3.5.2.3 has it, unless the sender's
  dialect says that it means the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from scim.attributes import Attribute, ResourceType, Target
from scim.errors import InvalidPath, InvalidSyntax, InvalidValue, NoTarget, NotMutable
from scim.filter_grammar import And, Comparison, Filter, Operator
from scim.filters import Predicate, compile_filter
from scim.paths import Path, parse_path
from scim.reading import finish, read_single, read_value
from scim.schemas import PATCH_OP, Resource

MAX_OPERATIONS: Final = 1_000
_VERBS: Final = frozenset({"add", "replace", "remove"})


def apply_patch(
    resource: Mapping[str, Any],
    body: Mapping[str, Any],
    kind: ResourceType,
    *,
    replace_makes: bool = False,
    own_id: str | None = None,
) -> Resource:
    """The resource after every operation of a PatchOp message; the one given stays as it is.

    Args:
        replace_makes: whether `replace` of a value that no filter matches makes it, as `add` does.
        own_id: identifier of the resource, which is not among its attributes here.

    Raises:
        InvalidSyntax: no PatchOp message.
        InvalidPath, InvalidFilter, NoTarget, NotMutable, InvalidValue: an operation that cannot be done; none was.
    """
    patched = copy.deepcopy(dict(resource))
    for verb, path, value in read_operations(body):
        _Operation(patched, kind, verb, _without_id(value, path, own_id), makes=verb == "add" or replace_makes).run(
            path
        )
    return finish({name: held for name, held in patched.items() if held not in ([], {}, None)}, kind)


def _without_id(value: Any, path: str | None, own_id: str | None) -> Any:
    if path is not None or own_id is None or not isinstance(value, dict):
        return value
    return {name: part for name, part in value.items() if name.lower() != "id" or part != own_id}


def read_operations(body: Mapping[str, Any]) -> list[tuple[str, str | None, Any]]:
    """Verb, path and value of each operation.

    Raises:
        InvalidSyntax: not built as section 3.5.2 says.
    """
    fields = {name.lower(): value for name, value in body.items()}
    schemas = fields.get("schemas")
    if not isinstance(schemas, list) or PATCH_OP.lower() not in {s.lower() for s in schemas if isinstance(s, str)}:
        raise InvalidSyntax(f"schemas must name {PATCH_OP}.", attribute="schemas")
    operations = fields.get("operations")
    if not isinstance(operations, list) or not operations:
        raise InvalidSyntax("Operations must list at least one operation.", attribute="Operations")
    if len(operations) > MAX_OPERATIONS:
        raise InvalidSyntax(f"A PATCH has at most {MAX_OPERATIONS} operations.", attribute="Operations")
    return [_read_operation(operation) for operation in operations]


def _read_operation(operation: Any) -> tuple[str, str | None, Any]:
    if not isinstance(operation, dict):
        raise InvalidSyntax("An operation must be an object.", attribute="Operations")
    fields = {name.lower(): value for name, value in operation.items()}
    verb = fields.get("op")
    if not isinstance(verb, str) or verb.lower() not in _VERBS:
        raise InvalidSyntax("op must be add, replace or remove.", attribute="op")
    path = fields.get("path")
    if path is not None and not isinstance(path, str):
        raise InvalidPath("path must be a text.", attribute="path")
    verb = verb.lower()
    if verb == "remove" and not path:
        # Section 3.5.2.2.
        raise NoTarget("remove needs a path.", attribute="path")
    if verb != "remove" and "value" not in fields:
        raise InvalidValue(f"{verb} needs a value.", attribute="value")
    return verb, path or None, fields.get("value")


class _Operation:
    """One operation on one resource, which it changes in place."""

    def __init__(self, resource: Resource, kind: ResourceType, verb: str, value: Any, *, makes: bool) -> None:
        self._resource, self._kind, self._verb, self._value, self._makes = resource, kind, verb, value, makes

    def run(self, path: str | None) -> None:
        if path is None:
            self._merge(self._value)
            return
        extension = self._kind.schema_of(path)
        if extension is not None:
            self._run_on_schema(extension.id)
            return
        parsed = parse_path(path)
        target = self._find(parsed)
        if target is None:
            raise InvalidPath(f"There is no attribute {str(parsed.attribute)!r}.", attribute=str(parsed.attribute))
        self._act(target, parsed, self._value)

    def _find(self, path: Path) -> Target | None:
        """Where a path leads. Nowhere, if the attribute may be neither read nor written: whether an operation would
        change it tells what it holds."""
        target = self._kind.find(path.attribute)
        if target is None or (target.attribute.returned == "never" and target.attribute.mutability == "readOnly"):
            return None
        return target

    def _run_on_schema(self, urn: str) -> None:
        if self._verb == "remove":
            if urn == self._kind.schema.id:
                raise NotMutable("The core of a resource cannot be removed.", attribute=urn)
            self._resource.pop(urn, None)
        else:
            self._merge({urn: self._value})

    def _merge(self, value: Any) -> None:
        """An operation without a path: its value holds attributes, or paths, each treated by itself."""
        if not isinstance(value, dict):
            raise InvalidValue("Without a path, value must be an object of attributes.", attribute="value")
        for name, part in value.items():
            extension = self._kind.schema_of(name)
            if extension is not None:
                if not isinstance(part, dict):
                    raise InvalidValue(f"{extension.id} must be an object.", attribute=extension.id)
                for inner, held in part.items():
                    self._merge_one(f"{extension.id}:{inner}", held)
            elif name.lower() != "schemas":
                self._merge_one(name, part)

    def _merge_one(self, name: str, value: Any) -> None:
        try:
            parsed = parse_path(name)
        except InvalidPath:
            return
        target = self._find(parsed)
        # Senders send more than they were told to.
        if target is not None:
            self._act(target, parsed, value)

    # --- one target ---------------------------------------------------------------------------------------------------

    def _act(self, target: Target, path: Path, value: Any) -> None:
        holder = self._holder(target)
        before = copy.deepcopy(holder.get(target.attribute.name))
        if path.filter is not None:
            self._act_on_selected(holder, target, path.filter, value)
        elif target.sub is not None:
            self._act_on_sub(holder, target.attribute, target.sub, value)
        else:
            self._act_on_attribute(holder, target.attribute, value)
        after = holder.get(target.attribute.name)
        if after in ([], {}, None):
            holder.pop(target.attribute.name, None)
            after = None
        if before != after:
            _check_mutable(target, before)
        if target.extension is not None and not holder:
            self._resource.pop(target.extension, None)

    def _holder(self, target: Target) -> Resource:
        if target.extension is None:
            return self._resource
        held: Resource = self._resource.setdefault(target.extension, {})
        return held

    def _act_on_attribute(self, holder: Resource, attribute: Attribute, value: Any) -> None:
        name = attribute.name
        if self._verb == "remove":
            if attribute.multi_valued and value is not None:
                gone = read_value(attribute, value) or []
                holder[name] = [held for held in holder.get(name) or [] if not _is_among(held, gone)]
            else:
                holder.pop(name, None)
            return
        new = read_value(attribute, value)
        if new is None:
            if self._verb == "replace":
                holder.pop(name, None)
        elif attribute.multi_valued and self._verb == "add":
            holder[name] = _extended(holder.get(name) or [], new)
        elif attribute.type == "complex" and not attribute.multi_valued:
            # Sections 3.5.2.1 and 3.5.2.3: sub-attributes that are not named stay.
            holder[name] = {**(holder.get(name) or {}), **new}
            for sub, part in value.items() if isinstance(value, dict) else ():
                known = attribute.sub(sub)
                if known is not None and part is None:
                    holder[name].pop(known.name, None)
        else:
            holder[name] = new

    def _act_on_sub(self, holder: Resource, attribute: Attribute, sub: Attribute, value: Any) -> None:
        new = None if self._verb == "remove" else read_value(sub, value)
        if not attribute.multi_valued:
            held = dict(holder.get(attribute.name) or {})
            holder[attribute.name] = _with(held, sub, new)
            return
        values = holder.get(attribute.name) or []
        if not values and new is not None:
            values = [{}]
        holder[attribute.name] = [part for each in values if (part := _with(dict(each), sub, new))]

    def _act_on_selected(self, holder: Resource, target: Target, selected: Filter, value: Any) -> None:
        attribute, sub = target.attribute, target.sub
        if not attribute.multi_valued or attribute.type != "complex":
            raise InvalidPath(f"{attribute.name} holds no list of values to select from.", attribute=attribute.name)
        matches = _predicate(attribute, selected)
        values: list[Resource] = list(holder.get(attribute.name) or [])
        chosen = [index for index, each in enumerate(values) if matches(each)]
        merges = self._verb == "add"
        if self._verb == "remove":
            holder[attribute.name] = _removed(values, set(chosen), sub)
            return
        if not chosen:
            if not self._makes:
                raise NoTarget("No value of the attribute matches the filter.", attribute=attribute.name)
            values.append(_described(attribute, selected))
            chosen = [len(values) - 1]
            merges = True
        for index in chosen:
            values[index] = _changed(values[index], attribute, sub, value, merges=merges)
        values = [each for each in values if each]
        _keep_one_primary(values, [values[index] for index in chosen if index < len(values)])
        holder[attribute.name] = values


def _changed(held: Resource, attribute: Attribute, sub: Attribute | None, value: Any, *, merges: bool) -> Resource:
    """A selected value after the operation: one part of it, the parts that are named, or all of it."""
    if sub is not None:
        return _with(dict(held), sub, read_value(sub, value))
    new = read_single(attribute, value)
    if not isinstance(new, dict):
        raise InvalidValue(f"{attribute.name} must be an object.", attribute=attribute.name)
    return {**held, **new} if merges else new


def _check_mutable(target: Target, before: Any) -> None:
    """Refuse what may not be changed, or not any more (RFC 7643 section 2.2, `mutability`)."""
    for attribute in filter(None, (target.attribute, target.sub)):
        if attribute.mutability == "readOnly" or (attribute.mutability == "immutable" and before is not None):
            raise NotMutable(f"{target} cannot be changed.", attribute=str(target))


def _predicate(attribute: Attribute, selected: Filter) -> Predicate:
    predicate: Callable[[Mapping[str, Any]], bool] = compile_filter(selected, attributes=attribute.spec.sub_attributes)
    return predicate


def _described(attribute: Attribute, selected: Filter) -> Resource:
    """What a filter says a value is: its equalities, joined by `and`.

    Raises:
        NoTarget: it says something else too, so that no value follows from it.
    """
    terms: Sequence[Filter] = selected.terms if isinstance(selected, And) else (selected,)
    value: Resource = {}
    for term in terms:
        sub = attribute.sub(term.path.name) if isinstance(term, Comparison) else None
        if not isinstance(term, Comparison) or term.operator is not Operator.EQ or sub is None:
            raise NoTarget("No value of the attribute matches the filter.", attribute=attribute.name)
        part = read_value(sub, term.value)
        if part is not None:
            value[sub.name] = part
    return value


def _removed(values: Sequence[Resource], chosen: set[int], sub: Attribute | None) -> list[Resource]:
    if sub is None:
        return [each for index, each in enumerate(values) if index not in chosen]
    kept = [_with(dict(each), sub, None) if index in chosen else each for index, each in enumerate(values)]
    return [each for each in kept if each]


def _with(holder: Resource, sub: Attribute, value: Any) -> Resource:
    if value is None:
        holder.pop(sub.name, None)
    else:
        holder[sub.name] = value
    return holder


def _extended(held: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Both lists; a value that is there already is not added again (section 3.5.2.1)."""
    values = list(held)
    known = {_identity(each) for each in values}
    added: list[Any] = []
    for each in new:
        identity = _identity(each)
        if identity not in known:
            known.add(identity)
            values.append(each)
            added.append(each)
    _keep_one_primary(values, added)
    return values


def _identity(value: Any) -> str:
    return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)


def _is_among(held: Any, gone: Sequence[Any]) -> bool:
    """Whether a value is meant by what is to be removed: by its `value`, or by all that is said of it."""
    for each in gone:
        if not isinstance(each, dict) or not isinstance(held, dict):
            if held == each:
                return True
        elif "value" in each:
            if held.get("value") == each["value"]:
                return True
        elif all(held.get(name) == part for name, part in each.items()):
            return True
    return False


def _keep_one_primary(values: Sequence[Any], preferred: Sequence[Any]) -> None:
    """Whatever was made primary last is the only one (section 3.5.2)."""
    primary = [each for each in preferred if isinstance(each, dict) and each.get("primary") is True]
    if not primary:
        return
    for index, each in enumerate(values):
        if isinstance(each, dict) and each.get("primary") is True and each is not primary[-1]:
            values[index]["primary"] = False
