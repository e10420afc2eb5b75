#!/bin/sh
# Counts the lines of a file: {"path": "..."} in, {"success": ..., ...} out.

# Without a JSON parser: the text of "path", as long as it has neither quotes nor backslashes in it.
path=$(sed -n 's/.*"path"[[:space:]]*:[[:space:]]*"\([^"\\]*\)".*/\1/p')

if [ -z "$path" ]; then
    printf '{"success": false, "error": "expected a path without quotes and backslashes"}\n'
elif [ ! -f "$path" ] || [ ! -r "$path" ]; then
    printf '{"success": false, "error": "there is no such file, or it cannot be read: %s"}\n' "$path"
else
    lines=$(wc -l <"$path" | tr -d ' ')
    printf '{"success": true, "message": "%s lines", "data": {"lines": %s}}\n' "$lines" "$lines"
fi
