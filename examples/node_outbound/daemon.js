// A daemon of ally_plugins for Node, without dependencies: JSON-RPC 2.0, one JSON text a line, on stdin and stdout.
// Standard output is the protocol's; what else there is to say goes to standard error or to `log`.
"use strict";

const readline = require("node:readline");

// ---- the connection: both sides ask, both sides answer ----

let lastId = 0;
const waiting = new Map(); // id -> what waits for the answer
const running = new Map(); // id of a request of the host's -> AbortController

function send(message) {
  process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\n");
}

function call(method, params) {
  const id = ++lastId;
  send({ id, method, params });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function receive(message) {
  if (message.method === undefined) {
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    if (message.error) reject?.(message.error);
    else resolve?.(message.result);
  } else if (message.method === "$/cancel") {
    running.get(message.params.id)?.abort();
  } else if (message.id === undefined) {
    notifications[message.method]?.(message.params);
  } else {
    answer(message);
  }
}

async function answer({ id, method, params }) {
  const controller = new AbortController();
  running.set(id, controller);
  try {
    if (!requests[method]) throw { code: -32601, message: `there is no method ${method}` };
    const result = await requests[method](params ?? {}, controller.signal);
    send({ id, result: result ?? null });
  } catch (error) {
    const isOurs = Number.isInteger(error?.code); // anything else stays here: no text of an error crosses
    if (!isOurs) console.error(error);
    send({ id, error: isOurs ? error : { code: -32603, message: "internal error", data: { type: error?.name } } });
  } finally {
    running.delete(id);
  }
}

// ---- what the host sends ----

let plugin = "";
let tour = null; // the promise of the report
let toolCalls = 0;
const tasks = new Map(); // name -> what a task that was started waits for

const requests = {
  initialize(told) {
    plugin = told.plugin;
    return {
      protocol: "1",
      name: "node_outbound",
      version: "1.0.0",
      hooks: ["ally_start", "ally_user_message", "ally_tool_call_end", "ally_gate_tool_call"],
      tools: [
        {
          name: "outbound-report",
          description: "Say what came of each call that this plugin has made",
          schema: { type: "object", properties: {}, required: [] },
          timeout: 60,
        },
      ],
    };
  },
  start: () => null,
  ping: () => "pong",
  async drain() {
    await tour; // the events before this are handled when what they began is done
    return null;
  },
  shutdown: () => null, // the host closes its end next, and then there is nothing left to read
  gate({ on, call }) {
    if (on !== "tool_call") return null;
    const isBad = /\brm\s+-\w*r\w*\s+\/(\s|$)/.test(String(call.arguments.command));
    return isBad ? { verdict: "deny", reason: "that would remove everything" } : { verdict: "allow" };
  },
  async call_tool({ name }) {
    if (name === "shout") return { success: true, output: "HELLO" };
    if (name !== "outbound-report") throw { code: -32010, message: `there is no tool ${name}` };
    if (!tour) return { success: false, error: "nobody has said anything yet" };
    const report = await tour;
    const said = Object.entries(report).map(([method, came]) => `${method}: ${came}`);
    return { success: true, output: said.join("\n"), data: { report, toolCalls } };
  },
  run_action: ({ arguments: given }) => ({ greeting: `hello ${given.name ?? "you"}` }),
  async run_task({ task_id, name }, signal) {
    for (const step of [1, 2, 3]) {
      if (signal.aborted) throw { code: -32800, message: "cancelled" };
      await call("task_progress", { task_id, progress: step / 3, message: `counted to ${step}` });
    }
    tasks.get(name)?.();
    return "counted";
  },
};

const notifications = {
  on_event({ event_type, session_id, id, offset }) {
    if (event_type === "USER_MESSAGE") tour ??= makeEveryCall(session_id, id);
    if (event_type === "TOOL_CALL_END") toolCalls += 1;
    // Durable events carry an offset: up to here everything is done, and shall not come again.
    if (offset !== undefined) call("ack_events", { offset }).catch((error) => console.error(error.message));
  },
};

// ---- what this side asks ----

async function makeEveryCall(session_id, cause) {
  const report = {};
  async function attempt(method, params) {
    try {
      const result = await call(method, { session_id, cause, ...params });
      report[method] = "ok";
      return result;
    } catch (error) {
      report[method] = `refused: ${error.data?.reason ?? error.code}`; // the text names the command that grants it
      console.error(`${method}: ${error.message}`);
    }
  }

  await attempt("get_context", { parts: ["messages", "focus"] });
  await attempt("add_message", { role: "user", content: "hello from Node", key: `hello-${cause}` });
  await attempt("emit_event", { type: "visited", data: { pid: process.pid } });
  await attempt("register_tool", {
    name: "shout",
    description: "Say hello, loudly",
    schema: { type: "object", properties: {} },
  });
  await attempt("register_action", { name: "greet", description: "Greet somebody", agent: false });
  await attempt("request_action", { action: `${plugin}:greet`, arguments: { name: "Ada" }, timeout: 30 });
  await attempt("unregister", { name: "shout" });
  await attempt("ask", { question: "Is this seen from Node?", choices: ["yes", "no"], timeout: 30 });
  const counted = new Promise((resolve) => tasks.set("count", resolve));
  if (await attempt("start_task", { name: "count" })) {
    await counted; // `run_task` came, and made its `task_progress`
    report.task_progress = "ok";
  }
  const said = Object.entries(report).map(([method, came]) => `${method} ${came}`);
  send({ method: "log", params: { level: "info", message: said.join(", ") } });
  return report;
}

const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", (line) => line.trim() && receive(JSON.parse(line)));
lines.on("close", () => process.exit(0)); // the host is gone
