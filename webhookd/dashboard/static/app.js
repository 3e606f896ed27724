/* What changes on a page without the server: relative times, countdowns, copied texts, and whether the page is live. */
"use strict";

(() => {
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const skew = Number(document.body.dataset.now || 0) * 1000 - Date.now();

  // Times are relative to the server's clock, not the browser's.
  const now = () => (Date.now() + (Number.isFinite(skew) ? skew : 0)) / 1000;

  function span(seconds, exact) {
    const left = Math.max(Math.round(seconds), 0);
    for (let i = 0; i < UNITS.length; i++) {
      const [size, unit] = UNITS[i];
      if (left < size && size > 1) continue;
      const whole = Math.floor(left / size);
      const next = UNITS[i + 1];
      const rest = next ? Math.floor((left % size) / next[0]) : 0;
      return exact && next && rest ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
    }
    return "0 s";
  }

  function tell(root) {
    for (const time of root.querySelectorAll("time[data-at]")) {
      const at = Number(time.dataset.at);
      if (!time.title) time.title = `${time.getAttribute("datetime").replace("T", " ").replace("Z", "")} UTC`;
      const seconds = now() - at;
      let text;
      if (time.hasAttribute("data-countdown")) text = seconds < 0 ? `in ${span(-seconds, true)}` : "now";
      else if (Math.abs(seconds) < 1) text = "now";
      else text = seconds > 0 ? `${span(seconds, false)} ago` : `in ${span(-seconds, false)}`;
      if (time.textContent !== text) time.textContent = text;
    }
    if (navigator.clipboard) for (const button of root.querySelectorAll("button[data-copy][hidden]")) button.hidden = false;
  }

  document.addEventListener("click", async (clicked) => {
    const button = clicked.target.closest("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // One confirmation at a time, and Escape closes it.
  document.addEventListener("toggle", (toggled) => {
    if (!toggled.target.matches?.("details.confirm[open]")) return;
    for (const other of document.querySelectorAll("details.confirm[open]")) if (other !== toggled.target) other.open = false;
  }, true);
  document.addEventListener("keydown", (pressed) => {
    if (pressed.key !== "Escape") return;
    for (const open of document.querySelectorAll("details.confirm[open]")) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  });

  // A field with a problem is also marked as invalid.
  document.body.addEventListener("htmx:afterSwap", () => {
    for (const problem of document.querySelectorAll(".problem[id$='-problem']")) {
      const field = document.getElementById(problem.id.slice(0, -"-problem".length));
      if (!field) continue;
      if (problem.textContent.trim()) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  });

  // A browser opens six connections to a server, over all of its tabs: a hidden tab closes its own.
  const HIDDEN_MS = 10000;
  const sources = new Set();
  let hiding = 0;
  htmx.createEventSource = (url) => {
    const source = new EventSource(url);
    source.addEventListener("ended", () => sources.delete(source));
    sources.add(source);
    return source;
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) {
      hiding = setTimeout(() => sources.forEach((source) => source.close()), HIDDEN_MS);
      return;
    }
    for (const source of [...sources]) {
      if (source.readyState !== EventSource.CLOSED) continue;
      sources.delete(source);
      source.onerror(undefined); // the extension connects again; no error for the console
    }
  });
  function say(text) {
    for (const place of document.querySelectorAll("[data-link]")) if (place.textContent !== text) place.textContent = text;
  }
  document.body.addEventListener("htmx:sseOpen", () => say("live"));
  document.body.addEventListener("htmx:sseError", (failed) => {
    const source = failed.detail.source;
    if (source.readyState === EventSource.CLOSED) sources.delete(source);
    if (!document.hidden) say("connection lost, reconnecting");
  });
  document.body.addEventListener("htmx:sseClose", () => say("not live"));

  document.body.addEventListener("htmx:load", (loaded) => tell(loaded.target));
  document.body.addEventListener("htmx:sseMessage", (told) => tell(told.target));
  tell(document);
  setInterval(() => tell(document), 1000);
})();
