"""A small real daemon, written from what is known of Code-Ally's."""

from __future__ import annotations

# The standard library only, one connection after the other, a line each way: what published daemons look like.
DAEMON = """
import json, os, socket, sys, time

path = os.environ["SOCKET_PATH"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(5)
seen = []

def read(connection):
    data = b""
    while b"\\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    return data

def answer(request):
    if request["method"] == "get_stats":
        return {"message": "%d events" % len(seen), "data": {"seen": seen}}
    return None

def talk(connection, request):
    if request["method"] == "on_event":
        seen.append(request["params"])
        return
    result = answer(request)
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    if result is None:
        reply["error"] = {"code": -32601, "message": "Method not found: " + request["method"]}
    else:
        reply["result"] = result
    connection.sendall(json.dumps(reply).encode() + b"\\n")

#BEHAVIOUR

print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        data = read(connection)
        if data.strip():
            talk(connection, json.loads(data))
"""
