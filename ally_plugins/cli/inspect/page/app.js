/** The page: which session, view, filter and entry are shown, kept in the address so that it can be given to others. */

import { get, isAbort } from "./api.js";
import { Details } from "./details.js";
import { byId, clock, count, date, el, took, visible } from "./dom.js";
import { VirtualList } from "./list.js";
import { showCosts, showPlugins, Wire } from "./panels.js";

/** @typedef {import("./details.js").Row} Row */

const TABS = ["timeline", "plugins", "costs", "wire"];
const GROUPS = ["tools", "messages", "decisions", "problems", "plugins", "model"];
const LIVE_MS = 700; // between two looks at a session that goes on
const IDLE_MS = 4000; // at one that does not, and may again
const PANEL_MS = 2000;
const TYPED_MS = 180; // after the last letter

const query = /** @type {HTMLInputElement} */ (byId("query"));
const sessions = /** @type {HTMLSelectElement} */ (byId("session"));
const types = /** @type {HTMLSelectElement} */ (byId("types"));
const plugins = /** @type {HTMLSelectElement} */ (byId("plugin"));
const follow = byId("follow");

const state = { session: "", id: "", tab: "timeline", q: "", groups: /** @type {string[]} */ ([]), type: "", plugin: "", isLive: false };
let isFollowing = false;
let asked = 0; // which request for rows is the latest

// --- the address

function read() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [session = "", id = ""] = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return "";
    }
  });
  const given = new URLSearchParams(search);
  state.session = session;
  state.id = id;
  state.tab = TABS.includes(given.get("tab") ?? "") ? String(given.get("tab")) : "timeline";
  state.q = given.get("q") ?? "";
  state.groups = (given.get("groups") ?? "").split(",").filter((group) => GROUPS.includes(group));
  state.type = given.get("type") ?? "";
  state.plugin = given.get("plugin") ?? "";
}

function address() {
  const given = new URLSearchParams();
  if (state.tab !== "timeline") given.set("tab", state.tab);
  if (state.q) given.set("q", state.q);
  if (state.groups.length) given.set("groups", state.groups.join(","));
  if (state.type) given.set("type", state.type);
  if (state.plugin) given.set("plugin", state.plugin);
  const search = given.toString();
  return `#/${[state.session, state.id].filter(Boolean).map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

/** @param {"push" | "replace"} how */
function write(how) {
  const to = address();
  if (to === location.hash) return;
  if (how === "push") history.pushState(null, "", to);
  else history.replaceState(null, "", to);
}

// --- the list

const filter = () => ({ session: state.session, q: state.q, groups: state.groups.join(","), types: state.type, plugin: state.plugin });
const isFiltered = () => Boolean(state.q || state.groups.length || state.type || state.plugin);

/** @type {VirtualList<Row>} */
const list = new VirtualList(byId("list"), {
  fetch: (from, number, signal) => get("rows", { ...filter(), from, count: number }, signal),
  draw,
  select: (place, row, how) => void select(place, row, how === "click" ? "push" : "replace"),
  fail,
  scrolled: (isAtEnd) => {
    if (isFollowing && !isAtEnd) setFollowing(false); // nobody but the person scrolls away from it
  },
});

/** @param {HTMLElement} element @param {Row | null} row @param {number} place */
function draw(element, row, place) {
  element.className = `row tone-${row?.tone || "none"}${row && !row.isEvent ? " record" : ""}${place % 2 ? " odd" : ""}`;
  if (!row) {
    element.replaceChildren(el("span", { class: "time" }, count(place + 1)), el("span", { class: "waits" }));
    return;
  }
  element.replaceChildren(
    el("span", { class: "time" }, clock(row.at)), el("span", { class: "type" }, row.type),
    el("span", { class: "who" }, row.who), el("span", { class: "text" }, row.text),
    el("span", { class: "ms" }, took(row.ms)));
}

/** Ask for what the filter lets through, and show it. @param {{keepEntry?: boolean}} [how] */
async function load({ keepEntry = true } = {}) {
  const request = ++asked;
  const toEnd = isFollowing || (state.isLive && !state.id && !isFiltered());
  byId("list").setAttribute("aria-busy", "true");
  try {
    const answer = await get("rows", { ...filter(), from: toEnd ? "end" : 0, count: 200 });
    if (request !== asked) return;
    problem("");
    if (answer.isEmpty) {
      empty(`Nothing is recorded yet in ${answer.home}.`);
      return;
    }
    state.session = answer.session;
    setLive(answer.isLive);
    list.reset(answer.total, answer.from, answer.rows);
    if (toEnd) list.toEnd();
    else list.scrollTo(0);
    counted(answer.total);
    if (keepEntry && state.id) await reveal(state.id);
    write("replace");
  } catch (error) {
    fail(error);
  } finally {
    byId("list").removeAttribute("aria-busy");
  }
}

/** @param {number} total */
function counted(total) {
  byId("count").textContent = `${count(total)} ${isFiltered() ? "found" : total === 1 ? "entry" : "entries"}`;
  byId("clear").hidden = !isFiltered();
  empty(total ? "" : isFiltered() ? "Nothing in this session passes the filter." : "Nothing is recorded of this session.");
}

/** @param {string} text */
function empty(text) {
  byId("empty").hidden = !text;
  byId("empty").textContent = visible(text);
}

/** Show an entry by its id, where the filter lets it through or not. @param {string} id */
async function reveal(id) {
  try {
    const found = await get("find", { ...filter(), id });
    if (found.isShown) list.select(found.place, null);
    const entry = await get("entry", { session: state.session, position: found.position });
    details.show(state.session, entry.row);
  } catch (error) {
    fail(error);
  }
}

/** @param {number} place @param {Row | null} row @param {"push" | "replace"} how */
async function select(place, row, how) {
  setFollowing(false);
  clearTimeout(opening);
  if (!row) {
    // It is being fetched; what is shown meanwhile is another one.
    opening = window.setTimeout(() => select(place, list.row(place), how), 80);
    return;
  }
  state.id = row.id;
  // Not each one on the way of a key that is held.
  opening = window.setTimeout(() => {
    write(how);
    details.show(state.session, row);
  }, how === "push" ? 0 : 90);
}
let opening = 0;

const details = new Details(
  (id) => {
    state.id = id;
    write("push");
    reveal(id);
  },
  closeDetails,
  (text) => {
    query.value = text;
    state.q = text;
    load({ keepEntry: true });
  });

function closeDetails() {
  state.id = "";
  details.hide();
  list.selected = -1;
  list.draw();
  write("replace");
  byId("list").focus();
}

// --- live

/** @param {boolean} isLive */
function setLive(isLive) {
  state.isLive = isLive;
  byId("live").textContent = isLive ? "live" : "";
  byId("live").classList.toggle("on", isLive);
}

/** @param {boolean} on */
function setFollowing(on) {
  isFollowing = on;
  follow.setAttribute("aria-pressed", String(on));
  if (on) list.toEnd();
}

const SESSIONS_MS = 15_000; // between two looks at which sessions there are, which reads the whole journal
let sessionsAt = -Infinity;

/** Look for what is new, as long as somebody can see it. */
async function tail() {
  if (!document.hidden && state.session && state.tab === "timeline") {
    const request = asked;
    try {
      const answer = await get("rows", { ...filter(), from: 0, count: 0 });
      if (request === asked) {
        problem("");
        setLive(answer.isLive);
        if (answer.total !== list.total) {
          list.grow(answer.total);
          counted(answer.total);
          if (isFollowing) setFollowing(true);
          facets();
        }
      }
      // Not while somebody chooses one.
      if (performance.now() - sessionsAt > SESSIONS_MS && document.activeElement !== sessions) await listSessions();
    } catch (error) {
      fail(error);
    }
  }
  setTimeout(tail, state.isLive || isFollowing ? LIVE_MS : IDLE_MS);
}

// --- what there is to choose from

let facetsAt = -Infinity;

async function facets() {
  if (performance.now() - facetsAt < 3000) return;
  facetsAt = performance.now();
  try {
    const found = await get("facets", { session: state.session });
    const names = Object.entries(found.types ?? {});
    types.replaceChildren(el("option", { value: "" }, "all types"),
      ...names.map(([name, number]) => el("option", { value: name }, `${name} (${count(/** @type {number} */ (number))})`)));
    if (state.type && !(state.type in (found.types ?? {}))) types.append(el("option", { value: state.type }, state.type));
    types.value = state.type;
    plugins.replaceChildren(el("option", { value: "" }, "all plugins"),
      ...(found.plugins ?? []).map((/** @type {string} */ name) => el("option", { value: name }, name)));
    if (state.plugin && !(found.plugins ?? []).includes(state.plugin)) plugins.append(el("option", { value: state.plugin }, state.plugin));
    plugins.value = state.plugin;
  } catch (error) {
    if (!isAbort(error)) fail(error);
  }
}

async function listSessions() {
  sessionsAt = performance.now();
  try {
    const found = await get("sessions");
    const options = (found.sessions ?? []).map((/** @type {any} */ each) =>
      el("option", { value: each.id }, `${each.isLive ? "● " : ""}${each.id} · ${date(each.lastAt)} · ${count(each.events)} events`));
    sessions.replaceChildren(...options);
    if (state.session && ![...sessions.options].some((each) => each.value === state.session)) {
      sessions.append(el("option", { value: state.session }, state.session));
    }
    sessions.value = state.session;
  } catch (error) {
    fail(error);
  }
}

// --- views

/** @type {Wire | null} */
let wire = null;
let paneling = 0;

function showTab() {
  for (const tab of TABS) {
    const isShown = tab === state.tab;
    byId(`panel-${tab}`).hidden = !isShown;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(isShown));
    byId(`tab-${tab}`).tabIndex = isShown ? 0 : -1;
  }
  clearTimeout(paneling);
  if (state.tab === "timeline") list.resize();
  else updatePanel();
}

async function updatePanel() {
  const tab = state.tab;
  if (!document.hidden) {
    try {
      if (tab === "plugins") await showPlugins();
      else if (tab === "costs") await showCosts(state.session);
      else if (tab === "wire") await (wire ??= new Wire()).update();
      problem("");
    } catch (error) {
      fail(error);
    }
  }
  // Costs are added up from the whole journal: not again and again.
  if (tab === state.tab && tab !== "timeline" && tab !== "costs") {
    clearTimeout(paneling);
    paneling = window.setTimeout(updatePanel, tab === "wire" ? LIVE_MS : PANEL_MS);
  }
}

/** @param {string} tab */
function openTab(tab) {
  state.tab = tab;
  write("push");
  showTab();
}

// --- problems

/** @param {string} text */
function problem(text) {
  byId("problem").hidden = !text;
  if (byId("problem").textContent !== text) byId("problem").textContent = visible(text);
}

/** @param {unknown} error */
function fail(error) {
  if (!isAbort(error)) problem(error instanceof Error ? error.message : String(error));
}

// --- the person

function shown() {
  query.value = state.q;
  for (const chip of byId("groups").children) {
    chip.setAttribute("aria-pressed", String(state.groups.includes(/** @type {HTMLElement} */ (chip).dataset.group ?? "")));
  }
  types.value = state.type;
  plugins.value = state.plugin;
}

/** Take what was chosen, and ask anew. */
function refilter() {
  write("replace");
  shown();
  load();
}

for (const group of GROUPS) {
  byId("groups").append(el("button", { type: "button", class: "chip", "data-group": group, "aria-pressed": "false", onclick: () => {
    state.groups = state.groups.includes(group) ? state.groups.filter((each) => each !== group) : [...state.groups, group];
    refilter();
  } }, group));
}

let typing = 0;
query.addEventListener("input", () => {
  clearTimeout(typing);
  typing = window.setTimeout(() => {
    state.q = query.value;
    refilter();
  }, TYPED_MS);
});
query.form?.addEventListener("submit", (event) => {
  event.preventDefault();
  byId("list").focus();
});
types.addEventListener("change", () => {
  state.type = types.value;
  refilter();
});
plugins.addEventListener("change", () => {
  state.plugin = plugins.value;
  refilter();
});
byId("clear").addEventListener("click", () => {
  Object.assign(state, { q: "", groups: [], type: "", plugin: "" });
  refilter();
  query.focus();
});
follow.addEventListener("click", () => setFollowing(!isFollowing));
sessions.addEventListener("change", () => {
  Object.assign(state, { session: sessions.value, id: "", type: "" });
  details.hide();
  setFollowing(false);
  facetsAt = -Infinity;
  write("push");
  load().then(facets);
  if (state.tab !== "timeline") updatePanel();
});
for (const tab of TABS) byId(`tab-${tab}`).addEventListener("click", () => openTab(tab));
document.querySelector("[role=tablist]")?.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[/** @type {KeyboardEvent} */ (event).key];
  if (!step) return;
  const next = TABS[(TABS.indexOf(state.tab) + step + TABS.length) % TABS.length];
  openTab(next);
  byId(`tab-${next}`).focus();
});
const help = /** @type {HTMLDialogElement} */ (byId("help"));
byId("help-open").addEventListener("click", () => help.showModal());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const target = event.target instanceof HTMLElement ? event.target : document.body;
  if (event.key === "Escape") {
    if (target === query && query.value) return; // the browser empties it
    if (target.closest(".details, .filter") && state.tab === "timeline") byId("list").focus();
    else if (!byId("details").hidden) closeDetails();
    return;
  }
  if (target.closest("input, select, textarea")) return;
  /** @type {Record<string, () => void>} */
  const keys = {
    "/": () => {
      if (state.tab !== "timeline") openTab("timeline");
      query.focus();
      query.select();
    },
    f: () => state.tab === "timeline" && setFollowing(!isFollowing),
    "?": () => help.showModal(),
    ...Object.fromEntries(TABS.map((tab, at) => [String(at + 1), () => openTab(tab)])),
  };
  if (event.key === "Enter" && target === byId("list") && !byId("details").hidden) keys.Enter = () => byId("details").focus();
  const act = keys[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

window.addEventListener("popstate", async () => {
  const before = JSON.stringify(filter());
  read();
  shown();
  showTab();
  if (sessions.value !== state.session) sessions.value = state.session;
  if (JSON.stringify(filter()) !== before) await load();
  else if (state.id) await reveal(state.id);
  else details.hide();
});

read();
shown();
showTab();
await load();
byId("list").focus({ preventScroll: true });
document.documentElement.dataset.ready = "";
await Promise.all([listSessions(), facets()]);
setTimeout(tail, LIVE_MS);
