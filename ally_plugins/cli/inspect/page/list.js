/**
 * A list of any length, of which the rows in sight are elements, and those around them are fetched.
 *
 * An element is used again for each row that is a screen's length further on. Beyond the height that browsers take the
 * scroll bar stands for more than a pixel each.
 */

import { el } from "./dom.js";

const PAGE = 200; // rows of one request: some screens
const MOST_PAGES = 40; // that are kept
const MOST_HEIGHT = 12_000_000; // pixels; Firefox takes 17 million
const AROUND = 4; // rows above and below those in sight
const SETTLE_MS = 50; // for how long scrolling must stand before a page is asked for that was not in sight before

/**
 * @template Row
 * @typedef {object} Source
 * @property {(from: number, count: number, signal: AbortSignal) => Promise<{total: number, rows: Row[]}>} fetch
 * @property {(element: HTMLElement, row: Row | null, place: number) => void} draw
 * @property {(place: number, row: Row | null, how: "key" | "click") => void} select
 * @property {(error: unknown) => void} fail
 * @property {(isAtEnd: boolean) => void} scrolled
 */

/** @template Row */
export class VirtualList {
  /**
   * @param {HTMLElement} host the element that scrolls
   * @param {Source<Row>} source
   */
  constructor(host, source) {
    this.host = host;
    this.source = source;
    this.total = 0;
    this.selected = -1;
    this.rowHeight = 26;
    /** @type {Map<number, Row[]>} */
    this.pages = new Map();
    /** @type {Map<number, AbortController>} */
    this.asked = new Map();
    /** @type {HTMLElement[]} */
    this.elements = [];
    this.generation = 0; // of what is shown: answers for another are dropped
    this.height = 0;
    this.frame = 0;
    this.timer = 0;
    this.shown = 0; // rows at once
    this.isDrawn = false;
    this.sizer = el("div", { class: "sizer", role: "presentation" });
    host.append(this.sizer);
    host.addEventListener("scroll", () => this.onScroll(), { passive: true });
    host.addEventListener("keydown", (event) => this.onKey(event));
    host.addEventListener("click", (event) => this.onClick(event));
    new ResizeObserver(() => this.resize()).observe(host);
    this.resize();
  }

  /** Forget all rows, and show others. @param {number} total @param {number} [from] @param {Row[]} [rows] */
  reset(total, from = 0, rows = []) {
    for (const each of this.asked.values()) each.abort();
    this.asked.clear();
    this.pages.clear();
    this.generation++;
    this.total = total;
    this.selected = -1;
    this.put(from, rows);
    this.size();
    this.draw();
  }

  /** Take more rows at the end. @param {number} total */
  grow(total) {
    if (total === this.total) return;
    const last = Math.floor(Math.max(this.total - 1, 0) / PAGE);
    this.pages.delete(last);
    this.asked.get(last)?.abort();
    this.asked.delete(last);
    this.total = total;
    this.size();
    this.draw();
  }

  /** Keep rows of an answer: the pages that it has whole, or to the end. @param {number} from @param {Row[]} rows */
  put(from, rows) {
    for (let page = Math.ceil(from / PAGE); page * PAGE < from + rows.length; page++) {
      const part = rows.slice(page * PAGE - from, (page + 1) * PAGE - from);
      if (part.length === PAGE || page * PAGE + part.length >= this.total) this.pages.set(page, part);
    }
  }

  /** @param {number} place @returns {Row | null} */
  row(place) {
    return this.pages.get(Math.floor(place / PAGE))?.[place % PAGE] ?? null;
  }

  // --- geometry

  resize() {
    const first = this.first();
    // As it was drawn: the height is another one by now.
    const wasShown = this.selected >= first - 1 && this.selected <= first + this.shown;
    this.rowHeight = Number.parseFloat(getComputedStyle(this.host).getPropertyValue("--row")) || 26;
    this.size();
    if (this.isDrawn) this.scrollTo(first);
    if (wasShown) this.show(this.selected);
    else this.draw();
  }

  size() {
    this.height = Math.min(this.total * this.rowHeight, MOST_HEIGHT);
    this.sizer.style.height = `${this.height}px`;
    const needed = this.total ? Math.ceil(this.host.clientHeight / this.rowHeight) + 2 * AROUND + 1 : 0;
    while (this.elements.length < needed) {
      const made = el("div", { class: "row", role: "option", id: `row-${this.elements.length}` });
      this.elements.push(made);
      this.sizer.append(made);
    }
    for (const extra of this.elements.splice(needed)) extra.remove();
    for (const each of this.elements) each.dataset.place = "";
  }

  /** The place of the first row in sight, with the part of it that is not. */
  first() {
    const room = this.height - this.host.clientHeight;
    if (room <= 0) return 0;
    const last = this.total - this.host.clientHeight / this.rowHeight;
    return Math.min(this.host.scrollTop / room, 1) * last;
  }

  /** @param {number} first */
  scrollTo(first) {
    const room = this.height - this.host.clientHeight;
    const last = this.total - this.host.clientHeight / this.rowHeight;
    this.host.scrollTop = last > 0 ? (first / last) * room : 0;
  }

  get isAtEnd() {
    return this.host.scrollTop + this.host.clientHeight >= this.height - this.rowHeight;
  }

  toEnd() {
    this.host.scrollTop = this.height;
    this.draw();
  }

  /** Scroll as little as needed, or to the middle when it is far. @param {number} place */
  show(place) {
    const first = this.first();
    const rows = this.host.clientHeight / this.rowHeight;
    if (place < first - rows || place > first + 2 * rows) this.scrollTo(Math.max(place - rows / 2, 0));
    else if (place < first) this.scrollTo(place);
    else if (place + 1 > first + rows) this.scrollTo(place + 1 - rows);
    this.draw();
  }

  // --- drawing

  onScroll() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
    this.source.scrolled(this.isAtEnd);
  }

  draw() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = 0;
    const first = this.first();
    const begin = Math.max(Math.floor(first) - AROUND, 0);
    const end = Math.min(begin + this.elements.length, this.total);
    const top = this.host.scrollTop - first * this.rowHeight;
    const used = new Set();
    for (let place = begin; place < end; place++) {
      const element = this.elements[place % this.elements.length];
      const row = this.row(place);
      const key = `${this.generation}:${place}:${row ? 1 : 0}:${this.selected === place ? 1 : 0}`;
      used.add(element);
      element.style.transform = `translateY(${top + place * this.rowHeight}px)`;
      if (element.dataset.place === key) continue;
      element.dataset.place = key;
      element.hidden = false;
      element.setAttribute("aria-setsize", String(this.total));
      element.setAttribute("aria-posinset", String(place + 1));
      element.setAttribute("aria-selected", String(this.selected === place));
      this.source.draw(element, row, place);
    }
    for (const element of this.elements) {
      if (!used.has(element)) {
        element.hidden = true;
        element.dataset.place = "";
      }
    }
    const active = this.selected >= begin && this.selected < end ? `row-${this.selected % this.elements.length}` : null;
    if (active) this.host.setAttribute("aria-activedescendant", active);
    else this.host.removeAttribute("aria-activedescendant");
    this.isDrawn = true;
    this.shown = this.host.clientHeight / this.rowHeight;
    this.need(begin, end);
  }

  /** Ask for the pages in sight that are not there; those far from it are asked for no more. @param {number} begin @param {number} end */
  need(begin, end) {
    const pages = [];
    for (let page = Math.floor(begin / PAGE); page * PAGE < end; page++) pages.push(page);
    for (const [page, request] of this.asked) {
      if (pages.length && (page < pages[0] - 1 || page > pages[pages.length - 1] + 1)) {
        request.abort();
        this.asked.delete(page);
      }
    }
    const missing = pages.filter((page) => !this.pages.has(page) && !this.asked.has(page));
    clearTimeout(this.timer);
    if (missing.length) this.timer = setTimeout(() => missing.forEach((page) => this.ask(page)), this.pages.size ? SETTLE_MS : 0);
    else this.ahead(pages);
  }

  /** Ask for the pages before and after those in sight. @param {number[]} pages */
  ahead(pages) {
    for (const page of [pages[0] - 1, pages[pages.length - 1] + 1]) {
      if (page >= 0 && page * PAGE < this.total && !this.pages.has(page) && !this.asked.has(page)) this.ask(page);
    }
  }

  /** @param {number} page */
  async ask(page) {
    if (this.pages.has(page) || this.asked.has(page)) return;
    const request = new AbortController();
    const generation = this.generation;
    this.asked.set(page, request);
    try {
      const answer = await this.source.fetch(page * PAGE, PAGE, request.signal);
      if (generation !== this.generation) return;
      this.pages.delete(page);
      this.pages.set(page, answer.rows);
      // The first in order were asked for first.
      while (this.pages.size > MOST_PAGES) this.pages.delete(/** @type {number} */ (this.pages.keys().next().value));
    } catch (error) {
      if (!request.signal.aborted) this.source.fail(error);
      return;
    } finally {
      if (this.asked.get(page) === request) this.asked.delete(page);
    }
    this.draw();
  }

  // --- selecting

  /** @param {number} place @param {"key" | "click" | null} how null where nobody is to be told */
  select(place, how) {
    if (!this.total) return;
    this.selected = Math.max(0, Math.min(place, this.total - 1));
    this.show(this.selected);
    if (how) this.source.select(this.selected, this.row(this.selected), how);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const screen = Math.max(Math.floor(this.host.clientHeight / this.rowHeight) - 1, 1);
    const at = this.selected < 0 ? Math.ceil(this.first()) - 1 : this.selected;
    /** @type {Record<string, number>} */
    const places = {
      ArrowDown: at + 1, j: at + 1, ArrowUp: this.selected < 0 ? 0 : at - 1, k: at - 1,
      PageDown: at + screen, PageUp: at - screen, Home: 0, End: this.total - 1,
    };
    if (event.key in places) {
      event.preventDefault();
      this.select(places[event.key], "key");
    }
  }

  /** @param {MouseEvent} event */
  onClick(event) {
    const element = event.target instanceof Element ? event.target.closest(".row") : null;
    const place = element instanceof HTMLElement ? element.dataset.place?.split(":")[1] : undefined;
    if (place) this.select(Number(place), "click");
  }
}
