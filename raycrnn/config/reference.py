"""List all keys: for `--help`, and as Markdown for the documentation."""

from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from raycrnn.config.group import Group
from raycrnn.config.loading import GROUP_OF_FLAT_KEY
from raycrnn.config.messages import fields, meaning, to_json
from raycrnn.config.schema import Configuration

JsonSchema = dict[str, Any]


def describe_keys(tree: type[Group] = Configuration) -> str:
    """Return the list of all keys for `--help`: dotted path, default, meaning."""
    lines = []
    group = ""
    for key, field in fields(tree).items():
        if (key.partition(".")[0] if "." in key else "") != group:
            group = key.partition(".")[0] if "." in key else ""
            lines += ["", *([f"{group}: {_group(tree, group).__doc__}"] if group else [])]
        lines.append(f"  {key}{_default_in_help(field)}")
        if field.description:
            lines.append(f"      {meaning(field)}")
    return "\n".join(lines)


def _group(tree: type[Group], name: str) -> type[Group]:
    group = tree.model_fields[name].annotation
    assert isinstance(group, type)
    assert issubclass(group, Group)
    return group


def _default_in_help(field: FieldInfo) -> str:
    if field.is_required():
        return " (required)"
    default = field.get_default(call_default_factory=True)
    # These say nothing beside a meaning that explains what happens without a value.
    if default is None or default == () or default == {} or isinstance(default, Group):
        return ""
    return f" [default: {default if isinstance(default, str) else to_json(default)}]"


def reference_markdown() -> str:
    """Return the reference of all keys as Markdown: a second-level heading and a table for each group."""
    sections = tables_markdown()
    flat = [f"| `{key}` | `{group}.{key}` |" for key, group in GROUP_OF_FLAT_KEY.items()]
    table = ["| Key of tf-crnn | Key of raycrnn |", "| --- | --- |", "| `training_params` | `training` |", *flat]
    text = "A configuration of tf-crnn is read unchanged: its keys are moved to these groups."
    sections.append("\n".join(["## Keys of tf-crnn", "", text, "", *table]))
    return "\n\n".join(sections) + "\n"


def tables_markdown(tree: type[Group] = Configuration, level: int = 2) -> list[str]:
    """Return a heading and a table of the keys as Markdown for each group.

    Args:
        tree: The model of the keys.
        level: The level of the headings.
    """
    tables: dict[str, list[str]] = {}
    for key, field in fields(tree).items():
        tables.setdefault(key.partition(".")[0] if "." in key else "", []).append(_row(key, field, tree))
    sections = []
    for group, rows in tables.items():
        title = f"`{group}`" if group else "Top level"
        text = _group(tree, group).__doc__ if group else "These keys belong to no group."
        table = ["| Key | Type | Default | Meaning | Allowed values |", "| --- | --- | --- | --- | --- |", *rows]
        sections.append("\n".join([f"{'#' * level} {title}", "", text or "", "", *table]))
    return sections


def _row(key: str, field: FieldInfo, root: type[Group]) -> str:
    schema = _schema_of(key, root)
    variants = schema.get("anyOf", [schema])
    types = " or ".join(filter(None, map(_type, variants)))
    default = "required" if field.is_required() else f"`{to_json(field.default)}`"
    allowed = ", ".join(dict.fromkeys(value for variant in variants for value in _allowed(variant)))
    # A pipe in plain text would end the cell; in code it would show the backslash.
    text = meaning(field).replace("|", r"\|")
    return f"| `{key}` | {types} | {default} | {text} | {allowed} |"


def _schema_of(key: str, root: type[Group]) -> JsonSchema:
    tree = root.model_json_schema()
    schema: JsonSchema = tree
    for part in key.split("."):
        schema = schema["properties"][part]
        if "$ref" in schema:
            schema = tree["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: JsonSchema) -> str:
    """Return the type of a JSON schema in words; empty for a single allowed string."""
    match schema:
        case {"const": _}:
            return ""
        case {"type": "string", "maxLength": 1}:
            return "character"
        case {"type": "array", "prefixItems": [first, *_] as items}:
            return f"list of {len(items)} {_type(first)}s"
        case {"type": "array", "items": items}:
            return " ".join(
                ["list of", *([str(schema["maxItems"])] if "maxItems" in schema else []), _type(items) + "s"]
            )
        case {"type": "object", "additionalProperties": values}:
            return f"object of {_type(values)}s"
        case _:
            return str(schema["type"])


def _allowed(schema: JsonSchema) -> Iterator[str]:
    """Yield the allowed values and the limits of a JSON schema."""
    for value in schema.get("enum", [schema["const"]] if "const" in schema else []):
        yield f"`{to_json(value)}`"
    if schema.get("type") == "boolean":
        yield from ("`true`", "`false`")
    # pydantic writes the limits of a key that has a validator under its own names.
    signs = {
        "≥": ("minimum", "ge"),
        ">": ("exclusiveMinimum", "gt"),
        "≤": ("maximum", "le"),
        "<": ("exclusiveMaximum", "lt"),
    }
    for sign, names in signs.items():
        for name in names:
            if name in schema:
                yield f"{sign} {schema[name]}"
    parts = [*schema.get("prefixItems", []), schema.get("items"), schema.get("additionalProperties")]
    yield from dict.fromkeys(limit for part in parts if isinstance(part, dict) for limit in _allowed(part))
