// Keep a page up to date without a reload: fetch the page's data, and fill it into the markup that the hub rendered.
// Everything is set as text, so that no part of a job is ever interpreted as HTML.
"use strict";
(() => {
  const EVERY = 2000; // ms between two requests
  const PATIENCE = 8000; // ms until a request is aborted
  const CALM = 1000; // ms without decisions after a tool call disappears: the next one has moved under the pointer
  const body = document.body;
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
  const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  let etag = body.dataset.etag;
  let skew = 0; // ms by which the hub's clock is ahead of this one
  let lastSeen = Date.now();
  let timer = 0;
  let asking = false;
  let calm = 0;

  const set = (el, name, value) => { if (el[name] !== value) el[name] = value; };

  function ago(at) {
    const seconds = Math.min(0, at - (Date.now() + skew) / 1000);
    if (seconds > -1.5) return relative.format(0, "second");
    const [unit, size] = UNITS.find(([, size]) => -seconds >= size);
    return relative.format(Math.round(seconds / size), unit);
  }

  function showTimes() {
    for (const el of document.querySelectorAll("time[data-at]")) {
      const at = Number(el.dataset.at);
      if (!at) continue;
      set(el, "textContent", ago(at));
      set(el, "title", absolute.format(at * 1000));
      set(el, "dateTime", new Date(at * 1000).toISOString());
    }
  }

  // data-text, data-value, data-pill, data-time, data-link, data-show and data-list each name a field of the data.
  function fill(el, data) {
    const d = el.dataset;
    if (d.text) set(el, "textContent", data[d.text] ?? "");
    if (d.pill) {
      set(el, "textContent", data[d.pill] ?? "");
      if (d.state !== data[d.pill]) d.state = data[d.pill];
    }
    if (d.value) set(el, "value", data[d.value] ?? "");
    if (d.tone && d.state !== data[d.tone]) d.state = data[d.tone];
    if (d.time) {
      if (d.at !== String(data[d.time] ?? "")) d.at = data[d.time] ?? "";
      set(el, "hidden", !data[d.time]);
    }
    if (d.link) {
      const to = data[d.link];
      if (to && to.startsWith("/dashboard")) {
        if (el.getAttribute("href") !== to) el.setAttribute("href", to);
      } else el.removeAttribute("href");
    }
    if (d.show) set(el, "hidden", d.show[0] === "!" ? has(data[d.show.slice(1)]) : !has(data[d.show]));
    if (d.list) return fillList(el, data[d.list] ?? []);
    for (const child of el.children) fill(child, data);
  }

  const has = (value) => (Array.isArray(value) ? value.length > 0 : Boolean(value));

  function fillList(list, rows) {
    const template = list.querySelector(":scope > template");
    const old = new Map();
    for (const el of list.children) if (el !== template) old.set(el.dataset.id, el);
    let place = template;
    for (const row of rows) {
      let el = old.get(row.id);
      if (el) old.delete(row.id);
      else {
        el = template.content.firstElementChild.cloneNode(true);
        el.dataset.id = row.id;
      }
      fill(el, row);
      if (place.nextElementSibling !== el) place.after(el);
      place = el;
    }
    for (const el of old.values()) {
      el.remove();
      if (el.matches(".approval")) calm = performance.now() + CALM;
    }
  }

  function seen(response) {
    lastSeen = Date.now();
    const date = Date.parse(response.headers.get("Date") ?? "");
    // The header counts whole seconds, so a small difference says nothing about the clocks.
    if (date) skew = Math.abs(date - lastSeen) > 2000 ? date - lastSeen : 0;
    lost.hidden = true;
    live.dataset.state = "live";
    set(live, "textContent", "live");
  }

  function unseen(why) {
    lost.hidden = false;
    set(lost.firstChild, "textContent", why); // a screen reader announces only this part, not each retry
    set(lost.lastChild, "textContent", `, last seen ${ago((lastSeen + skew) / 1000)}. Trying again…`);
    live.dataset.state = "lost";
    set(live, "textContent", "offline");
  }

  const logIn = () => `/login?next=${encodeURIComponent(location.pathname)}`;

  async function ask() {
    if (asking || document.hidden) return;
    asking = true;
    clearTimeout(timer);
    const abort = new AbortController();
    const patience = setTimeout(() => abort.abort(), PATIENCE);
    try {
      const response = await fetch(body.dataset.url, {
        headers: { "If-None-Match": etag, Accept: "application/json" }, cache: "no-store", signal: abort.signal,
      });
      if (response.status === 200) {
        const data = await response.json();
        etag = response.headers.get("ETag") ?? "";
        fill(body, data);
        for (const field of document.querySelectorAll("input[name=token]")) field.value = data.token;
        seen(response);
      } else if (response.status === 304) seen(response);
      else if (response.status === 401) return location.assign(logIn());
      else unseen(`The hub answered ${response.status}`);
    } catch {
      unseen("Connection lost");
    }
    clearTimeout(patience);
    showTimes();
    asking = false;
    if (!document.hidden) timer = setTimeout(ask, EVERY);
  }

  // A form works without this function too; with it, an error appears beside what was typed.
  async function send(event) {
    event.preventDefault();
    const form = event.target;
    if (form.closest(".approval") && performance.now() < calm) return;
    const problem = form.querySelector("[role=alert]");
    const buttons = form.querySelectorAll("button");
    const fields = new URLSearchParams(new FormData(form));
    if (event.submitter?.name) fields.set(event.submitter.name, event.submitter.value);
    for (const button of buttons) button.disabled = true;
    problem.hidden = true;
    try {
      const response = await fetch(form.action, {
        method: "POST", body: fields, headers: { Accept: "application/json" },
      });
      const answer = await response.json();
      if (response.ok && answer.href.startsWith("/dashboard")) {
        if (answer.href === location.pathname) await ask();
        else location.assign(answer.href);
        return;
      }
      problem.textContent = response.status === 401 ? "You are no longer logged in: log in in another tab, then submit again." : answer.error;
    } catch {
      problem.textContent = "The hub did not answer; nothing was submitted.";
    } finally {
      for (const button of buttons) button.disabled = false;
    }
    problem.hidden = false;
  }

  // On the document, so that it covers forms added later. The log-out form is left to the browser.
  document.addEventListener("submit", (event) => { if (!event.target.matches("[data-plain]")) send(event); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.closest("form.new")?.requestSubmit();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  live.dataset.state = "live";
  live.textContent = "live";
  showTimes();
  timer = setTimeout(ask, EVERY);
})();
