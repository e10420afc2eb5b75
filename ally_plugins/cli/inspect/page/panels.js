/** The views beside the timeline: plugins in the running hosts, what they cost, and the lines of one daemon. */

import { get } from "./api.js";
import { byId, clock, count, date, el, json, table, took } from "./dom.js";

const BAD = new Set(["failed", "quarantined", "backoff"]);
const GOOD = new Set(["running"]);

/** @param {string} word */
const state = (word) => el("span", { class: `badge tone-${BAD.has(word) ? "bad" : GOOD.has(word) ? "good" : "none"}` }, word);

/** @param {number | null | undefined} bytes */
const megabytes = (bytes) => (bytes === null || bytes === undefined ? "–" : `${Math.round(bytes / 1e6)} MB`);

/** @param {number | null | undefined} seconds */
const ofSeconds = (seconds) => (seconds === null || seconds === undefined ? "–" : took(seconds * 1000));

/** @param {string} title @param {...(Node | null)} children */
function card(title, ...children) {
  return el("section", { class: "card" }, el("h2", null, title), ...children.filter((each) => each instanceof Node));
}

/** @param {string} text */
const note = (text) => el("p", { class: "note" }, text);

export async function showPlugins() {
  const found = await get("plugins");
  const hosts = (found.hosts ?? []).map((/** @type {any} */ host) => card(`${host.app} · process ${host.pid}`,
    note(`since ${date(host.started)} · ${count(host.sessions)} session${host.sessions === 1 ? "" : "s"}${host.is_starting ? " · it is starting" : ""}`),
    table(["plugin", "state", "since", "placement", ">events", ">lost", ">crashes", ">restarts", "reason"],
      (host.plugins ?? []).map((/** @type {any} */ each) => [
        each.name, state(each.state), date(each.since), each.placement + (each.pid ? ` (${each.pid})` : ""),
        count(each.delivered), count(each.dropped), count(each.crashes), count(each.restarts), each.reason]))));
  const silent = (found.silent ?? []).map((/** @type {number} */ pid) => note(`host ${pid} does not answer`));
  byId("panel-plugins").replaceChildren(
    ...(hosts.length ? hosts : [card("Running hosts", note("No host runs on this home now."))]), ...silent,
    card("How states have changed", table(["time", "plugin", "state", "what"], (found.states ?? []).map(
      (/** @type {any} */ each) => [date(each.at), each.plugin, state(each.state), each.text])) ?? note("Nothing is recorded.")));
}

/** @param {string} session */
export async function showCosts(session) {
  byId("panel-costs").replaceChildren(card("Costs", note("They are added up from the journal …")));
  const found = await get("costs", { session });
  const hooks = found.plugins?.flatMap((/** @type {any} */ plugin) => plugin.hooks.map((/** @type {any} */ hook) => [
    plugin.name, hook.hook, count(hook.calls), ofSeconds(hook.p50), ofSeconds(hook.p95), ofSeconds(hook.longest),
    ofSeconds(hook.seconds), count(hook.denied), count(hook.asked), count(hook.changed), count(hook.failed)]));
  const plugins = found.plugins?.map((/** @type {any} */ each) => [
    each.name, count(each.messages), count(each.tokens), count(each.cache_breaks), count(each.uncached_tokens),
    count(each.refused), count(each.crashes), count(each.restarts), count(each.dropped), megabytes(each.memory),
    ofSeconds(each.cpu)]);
  const models = found.models?.map((/** @type {any} */ each) => [
    each.model, count(each.requests), count(each.inputTokens), count(each.outputTokens), count(each.cacheReadTokens),
    count(each.cacheCreationTokens), took(each.durationMs)]);
  byId("panel-costs").replaceChildren(
    card("Models", table(["model", ">requests", ">tokens in", ">out", ">read from cache", ">written to cache", ">took"],
      models ?? []) ?? note("The session has no answer of a model.")),
    card("Plugins", note(`From ${date(found.since)}${found.until ? ` to ${date(found.until)}` : " until now"}; hosts count for all their sessions together. Tokens are estimated: one for four characters.`),
      table(["plugin", ">messages", ">tokens", ">cache breaks", ">tokens not cached", ">refused", ">crashes", ">restarts", ">lost events", ">memory", ">CPU"],
        plugins ?? []) ?? note("Nothing is recorded of any plugin in this time.")),
    card("Hooks", table(["plugin", "hook", ">calls", ">p50", ">p95", ">longest", ">together", ">denied", ">asked", ">changed", ">failed"],
      hooks ?? []) ?? note("Nothing is recorded of any hook in this time.")));
}

const MOST_LINES = 1000;

/** The lines between a host and one daemon, from when it is looked at. */
export class Wire {
  constructor() {
    this.host = byId("panel-wire");
    this.plugin = "";
    this.names = "";
    /** @type {Map<string, number>} */
    this.after = new Map();
    this.select = /** @type {HTMLSelectElement} */ (el("select", { "aria-label": "Daemon", onchange: () => this.choose() }));
    this.note = note("");
    this.lines = el("div", { class: "lines", role: "log", "aria-live": "off", tabindex: "0", "aria-label": "Lines" });
    this.host.replaceChildren(card("JSON-RPC of one daemon",
      note("What host and daemon write to each other, from the moment that you choose one here and for as long as this is open. A host keeps the last lines in memory for that, with the plugin's settings and tokens left out, and nothing of it on disk."),
      el("p", { class: "actions" }, this.select, this.note), this.lines));
  }

  choose() {
    this.plugin = this.select.value;
    this.after.clear();
    this.lines.replaceChildren();
    this.update();
  }

  async update() {
    const found = await get("plugins");
    const names = [...new Set((found.hosts ?? []).flatMap((/** @type {any} */ host) => host.plugins)
      .filter((/** @type {any} */ each) => each.placement !== "inline").map((/** @type {any} */ each) => each.name))].sort();
    if (names.join() !== this.names) {
      this.names = names.join();
      this.select.replaceChildren(el("option", { value: "" }, names.length ? "choose a daemon" : "no daemon runs"),
        ...names.map((name) => el("option", { value: name, selected: name === this.plugin }, name)));
    }
    if (!this.plugin) return;
    const plugin = this.plugin;
    const answer = await get("wire", { plugin, after: Math.max(0, ...this.after.values()) });
    if (plugin !== this.plugin) return;
    const problems = [];
    for (const host of answer.hosts ?? []) {
      if (host.error) problems.push(`host ${host.pid}: ${host.error}`);
      for (const each of host.lines ?? []) this.add(host.pid, each);
      if (host.missed) problems.push(`${count(host.missed)} lines were more than are kept`);
      this.after.set(String(host.pid), host.last ?? 0);
    }
    this.note.textContent = problems.join("; ");
  }

  /** @param {number} pid @param {any} line */
  add(pid, line) {
    const isAtEnd = this.lines.scrollTop + this.lines.clientHeight >= this.lines.scrollHeight - 8;
    this.lines.append(el("details", { class: "line" },
      el("summary", null, el("span", { class: "time" }, clock(line.at)),
        el("span", { class: `way ${line.out ? "out" : "in"}`, title: line.out ? "host to daemon" : "daemon to host" }, line.out ? "→" : "←"),
        el("span", { class: "raw" }, line.text)),
      json(pretty(line.text)), line.isCut && note(`cut: it has ${count(line.bytes)} bytes`)));
    while (this.lines.childElementCount > MOST_LINES) this.lines.firstElementChild?.remove();
    if (isAtEnd) this.lines.scrollTop = this.lines.scrollHeight;
  }
}

/** @param {string} text */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // cut, or no JSON: a daemon may write anything
  }
}
