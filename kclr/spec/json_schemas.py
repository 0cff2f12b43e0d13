"""JSON Schemas in the form in which they are written."""


def tidied(schema):
    """The same for every release of pydantic: no generated titles, descriptions on one line."""
    if isinstance(schema, list):
        return [tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: tidied(v) for k, v in schema.items()}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if kept.get("additionalProperties") is True:
        del kept["additionalProperties"]
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(kept.get(key), float) and kept[key].is_integer():
            kept[key] = int(kept[key])
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept
