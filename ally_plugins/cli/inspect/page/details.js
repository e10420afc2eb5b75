/** All that is recorded of one entry, and what led to it. */

import { get, isAbort } from "./api.js";
import { byId, clock, count, date, el, json, table, took, visible } from "./dom.js";

/**
 * @typedef {object} Row an entry as the server sends it
 * @property {number} place
 * @property {number} position
 * @property {string} id
 * @property {number} n
 * @property {number} at
 * @property {string} type
 * @property {boolean} isEvent
 * @property {string} who
 * @property {string} text
 * @property {string} tone
 * @property {number} [ms]
 * @property {string} [call]
 */

export class Details {
  /**
   * @param {(id: string) => void} open shows another entry
   * @param {() => void} close
   * @param {(text: string) => void} find looks for a text
   */
  constructor(open, close, find) {
    this.open = open;
    this.close = close;
    this.find = find;
    this.host = byId("details");
    /** @type {AbortController | null} */
    this.request = null;
  }

  hide() {
    this.request?.abort();
    this.host.hidden = true;
    this.host.replaceChildren();
  }

  /** @param {string} session @param {Row} row */
  async show(session, row) {
    this.request?.abort();
    const request = (this.request = new AbortController());
    const body = el("div", { class: "body", "aria-busy": "true" });
    const isNew = this.host.hidden;
    this.host.hidden = false;
    this.host.replaceChildren(this.head(session, row), body);
    if (isNew) this.host.scrollTop = 0;
    try {
      const entry = await get("entry", { session, position: row.position }, request.signal);
      body.replaceChildren(...this.parts(entry));
      body.removeAttribute("aria-busy");
      if (!row.id.startsWith("#")) await this.explain(body, session, row.id, request.signal);
    } catch (error) {
      if (isAbort(error) || request.signal.aborted) return;
      body.removeAttribute("aria-busy");
      body.append(el("p", { class: "note bad" }, error instanceof Error ? error.message : String(error)));
    }
  }

  /** @param {string} session @param {Row} row */
  head(session, row) {
    const copied = el("span", { class: "note", role: "status" });
    const copy = async (/** @type {string} */ text) => {
      try {
        await navigator.clipboard.writeText(text);
        copied.textContent = "copied";
      } catch {
        copied.textContent = visible(text); // to be copied by hand
      }
    };
    const command = `ally-plugins ${row.id.startsWith("#") ? `inspect --session ${session}` : `explain ${row.id}`}`;
    return el("header", null,
      el("div", { class: "title" },
        el("h2", { class: `type tone-${row.tone || "none"}` }, row.type),
        el("button", { class: "icon", "aria-label": "Close the details", title: "Close (Esc)", onclick: this.close }, "×"),
      ),
      el("p", { class: "facts" },
        el("span", { class: "mono" }, row.id), ` · ${date(row.at, true)} · record ${row.n}`),
      el("p", { class: "actions" },
        el("button", { onclick: () => copy(location.href) }, "Copy link"),
        el("button", { onclick: () => copy(command), title: command }, "Copy command"),
        row.call && el("button", { onclick: () => this.find(/** @type {string} */ (row.call)) }, "All of this call"),
        copied,
      ));
  }

  /** @param {any} entry @returns {Node[]} */
  parts(entry) {
    const votes = table(["plugin", "vote", "why", ">took"], entry.votes.map((/** @type {any} */ vote) => [
      vote.plugin, verdict(vote.verdict, vote.shadow), voteReason(vote), took(vote.elapsed_ms)]));
    const receivers = table(["plugin", "hook", ">took", ""], entry.receivers.map((/** @type {any} */ each) => [
      each.plugin, each.hook ?? "–", each.ms === null ? "–" : took(each.ms), receipt(each)]));
    const isEvent = entry.row.isEvent;
    return [
      part("Why it is there", el("p", { class: "why" }, "…")),
      entry.message && part("Message", message(entry.message, this.open)),
      entry.votes.length && part("Votes", votes),
      part("What led here"),
      part("What else names it"),
      isEvent && part("Who received it", receivers,
        el("p", { class: "note" }, receivers
          ? "Observers, of which nobody waits for an answer. Gates are above, each with its own time."
          : "No observer was given it; what a host did in the minute before it was killed is not recorded.")),
      part(isEvent ? "Recorded" : "Recorded data", entry.content === null
        ? el("p", { class: "note" }, entry.why)
        : json(entry.content),
        entry.isCut && el("p", { class: "note" }, `cut: it has ${count(entry.bytes)} bytes; \`ally-plugins export\` has all`)),
      entry.hash && part("Audit chain", el("p", { class: "mono hash" }, entry.hash)),
    ].filter((each) => each instanceof Node);
  }

  /** @param {HTMLElement} body @param {string} session @param {string} id @param {AbortSignal} signal */
  async explain(body, session, id, signal) {
    const found = await get("explain", { session, id }, signal);
    const [why] = body.getElementsByClassName("why");
    why.replaceChildren(visible(found.why));
    const chain = found.origin.length ? el("p", { class: "chain" }, "chain of plugins: ", found.origin.join(" › ")) : null;
    if (chain) why.after(chain);
    const link = (/** @type {string} */ to) => el("button", { class: "link mono", onclick: () => this.open(to) }, to);
    fill(body, "What led here",
      table(["time", "event", "type"], found.causes.map((/** @type {any} */ each) => [clock(each.at), link(each.id), each.type])),
      found.permissions.length ? el("p", { class: "sub" }, "The permission") : null,
      table(["time", "by", "what"], found.permissions.map((/** @type {any} */ each) => [date(each.at), each.kind, each.text])));
    const decisions = found.decisions.filter((/** @type {any} */ each) => each.id !== id);
    fill(body, "What else names it",
      ...decisions.map((/** @type {any} */ each) => el("div", null,
        el("p", { class: "sub" }, link(each.id), " ", verdict(each.data?.verdict), " ", each.data?.reason ?? ""),
        table(["plugin", "vote", "why", ">took"], (each.data?.votes ?? []).map((/** @type {any} */ vote) => [
          vote.plugin, verdict(vote.verdict, vote.shadow), voteReason(vote), took(vote.elapsed_ms)])))),
      table(["time", "record", "kind", "what"], found.related.map((/** @type {any} */ each) => [
        clock(each.at), link(each.id), each.kind, each.text])));
  }
}

/** @param {string} title @param {...(Node | null | false | undefined)} children */
function part(title, ...children) {
  const kept = children.filter((each) => each instanceof Node);
  return el("section", { class: "part", "data-title": title, hidden: !kept.length }, el("h3", null, title), ...kept);
}

/** @param {HTMLElement} body @param {string} title @param {...(Node | null)} children */
function fill(body, title, ...children) {
  const kept = children.filter((each) => each instanceof Node);
  for (const each of body.querySelectorAll("section")) {
    if (each.dataset.title !== title || !kept.length) continue;
    each.append(...kept);
    each.hidden = false;
  }
}

/** @param {unknown} given @param {unknown} [shadow] */
function verdict(given, shadow) {
  const word = String(given ?? "–");
  const tone = { deny: "bad", ask: "warn", allow: "good" }[word] ?? "none";
  return el("span", { class: `badge tone-${shadow ? "none" : tone}` }, word, shadow ? " (shadow)" : null);
}

/** @param {any} vote */
function voteReason(vote) {
  const cause = vote.cause && vote.cause !== "verdict" ? `[${vote.cause}] ` : "";
  return `${cause}${vote.reason || vote.detail || ""}`;
}

/** @param {any} each @returns {string} what a time stands for */
function receipt(each) {
  if (each.ms === null) return "sent to its process, which has not said how long it took";
  return each.together > 1 ? `for ${count(each.together)} events together` : "";
}

/** @param {any} given @param {(id: string) => void} open */
function message(given, open) {
  const how = [`role ${given.role}`, given.deliverAs, given.wakes && "wakes the agent", given.permission && `by ${given.permission}`];
  const state = given.state.replaceAll("_", " ");
  return el("div", { class: "message" },
    el("p", { class: "facts" }, el("strong", null, given.plugin), ` · ${how.filter(Boolean).join(" · ")}`),
    given.content === null || given.content === undefined
      ? el("p", { class: "note" }, "(its content was pruned)")
      : el("blockquote", { dir: "auto" }, given.content),
    el("p", { class: "facts" }, `origin: ${given.origin.join(" › ")}`,
      given.cause && el("span", null, " · after ", el("button", { class: "link mono", onclick: () => open(given.cause) }, given.cause))),
    el("p", { class: "facts" }, `accepted ${clock(given.acceptedAt)} · ${state}${given.settledAt ? ` ${clock(given.settledAt)}` : ""}`));
}
