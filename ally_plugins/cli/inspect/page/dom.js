/**
 * Elements, and texts of strangers made safe to look at. Nothing here, or anywhere in this page, makes markup of a text:
 * the page's policy (trusted types) forbids it to the browser too.
 */

/** What a reader would not see, or what turns the direction of what follows: shown as an escape. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\u{e0000}-\u{e0fff}]/gu;

/**
 * A text with what nobody would see as escapes; line feeds and tabs stay.
 * @param {unknown} text
 */
export function visible(text) {
  return String(text ?? "").replace(UNSEEN, (char) => {
    const code = /** @type {number} */ (char.codePointAt(0)).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  });
}

/**
 * An element with attributes and children; texts among these are shown as texts. `on…` are listeners.
 * @param {string} tag
 * @param {Record<string, any> | null} [attributes]
 * @param {...(Node | string | number | null | undefined | false)} children
 */
export function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : visible(child));
  }
  return made;
}

/** @param {string} id */
export const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const PRECISE = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23", timeZoneName: "short" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** Whether a time can be shown as one: a recording may have any number. @param {number} at */
const isTime = (at) => Number.isFinite(at) && Math.abs(at) < 8.64e15;

/** @param {number} at Unix ms */
export function clock(at) {
  return isTime(at) ? `${TIME.format(at)}.${String(((at % 1000) + 1000) % 1000).padStart(3, "0")}` : `${at} ms`;
}

/** @param {number | null | undefined} at Unix ms @param {boolean} [precise] with milliseconds */
export function date(at, precise = false) {
  if (at === null || at === undefined) return "–";
  return isTime(at) ? (precise ? PRECISE : DATE).format(at) : `${at} ms`;
}

/** @param {number | null | undefined} ms */
export function took(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "";
  if (ms >= 60_000) return `${(ms / 60_000).toFixed(1)} min`;
  if (ms >= 1000) return `${(ms / 1000).toPrecision(3)} s`;
  return ms >= 1 ? `${Number(ms.toPrecision(3))} ms` : `${Math.round(ms * 1000)} µs`;
}

/** @param {number | null | undefined} value */
export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MOST_COLOURED = 100_000; // characters: an element for each value would make the browser slow

/**
 * JSON, coloured.
 * @param {string} text
 */
export function json(text) {
  const made = el("pre", { class: "json", tabindex: "0" });
  if (text.length > MOST_COLOURED) {
    made.append(visible(text));
    return made;
  }
  let from = 0;
  for (const found of text.matchAll(TOKEN)) {
    made.append(visible(text.slice(from, found.index)));
    const [whole, string, colon] = found;
    const kind = colon ? "key" : string ? (string.startsWith('"[not kept: ') ? "absent" : "string") : "value";
    made.append(el("span", { class: kind }, colon ? string : whole), colon ?? "");
    from = found.index + whole.length;
  }
  made.append(visible(text.slice(from)));
  return made;
}

/**
 * A table; nothing without rows.
 * @param {string[]} heads those that begin with `>` are of numbers
 * @param {(Node | string | number | null | undefined)[][]} rows
 * @param {string} [caption]
 */
export function table(heads, rows, caption) {
  if (!rows.length) return null;
  const isNumber = heads.map((head) => head.startsWith(">"));
  const cell = (/** @type {string} */ tag, /** @type {any} */ each, /** @type {number} */ at) =>
    el(tag, { class: isNumber[at] && "right", scope: tag === "th" && "col" }, each);
  return el("div", { class: "scrolls", tabindex: "0" }, el("table", null,
    caption && el("caption", null, caption),
    el("thead", null, el("tr", null, ...heads.map((head, at) => cell("th", head.replace(/^>/, ""), at)))),
    el("tbody", null, ...rows.map((row) => el("tr", null, ...row.map((each, at) => cell("td", each, at))))),
  ));
}
