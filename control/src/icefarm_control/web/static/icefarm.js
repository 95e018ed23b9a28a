// Before htmx, so that it hears of a stream that fails while the page is still loading.
// Times are shown as the reader's clock has them; what is sent, and what is seen without scripts, is UTC.
"use strict";

(() => {
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

  function inWords(at) {
    const seconds = Math.round((at - Date.now()) / 1000);
    // From two of a unit on: 90 minutes are not "1 hour".
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= 2 * size) ?? units.at(-1);
    return relative.format(Math.trunc(seconds / size), unit);
  }

  function show(time) {
    const at = new Date(time.dateTime);
    const text = inWords(at);
    if (time.textContent !== text) time.textContent = text;
    const title = exact.format(at);
    if (time.title !== title) time.title = title;
  }

  function showAll() {
    document.querySelectorAll("time[datetime]").forEach(show);
  }

  // A page that stands for one that could not be read is asked for again.
  function comeBack() {
    const trouble = document.getElementById("live-trouble");
    const stands = document.querySelector("[data-return]");
    if (stands && trouble && !trouble.classList.contains("trouble")) reload();
  }

  let reloads = false;

  // Once: a second time would break off the first.
  function reload() {
    if (!reloads) location.reload();
    reloads = true;
  }

  // Control ends, is not reached, or does not know any more who looks.
  function lose(status) {
    if (status === 401) reload();
    else sayUnconnected("This page has lost control, which may be starting anew: what is shown is as it was.");
  }

  // htmx opens a stream again that was open once; one that never was, this does.
  function loseAtFirst(event) {
    const stream = event.target;
    if (!stream.hasAttribute?.("hx-sse:connect")) return;
    lose(event.detail.ctx?.response?.status);
    setTimeout(() => {
      const another = stream.cloneNode();
      stream.replaceWith(another);
      htmx.process(another);
    }, 2000);
  }

  function sayUnconnected(text) {
    const place = document.getElementById("unconnected");
    if (place.textContent === text) return;
    place.textContent = text;
    place.className = text && "trouble";
  }

  // On a phone, the links to all pages are longer than the window. In some browsers (Chromium 150),
  // scrollIntoView would also let Tab begin there, instead of at the skip link.
  function showWhereOneIs() {
    const here = document.querySelector("nav [aria-current=page]");
    if (here === null) return;
    const nav = here.closest("nav");
    const place = here.getBoundingClientRect(), all = nav.getBoundingClientRect();
    nav.scrollLeft += place.left - all.left - (all.width - place.width) / 2;
  }

  document.addEventListener("htmx:sse:error", (event) => lose(event.detail.status));
  document.addEventListener("htmx:error", loseAtFirst);
  document.addEventListener("htmx:response:error", loseAtFirst);
  document.addEventListener("htmx:sse:after:connection", () => sayUnconnected(""));
  document.addEventListener("htmx:after:swap", () => { showAll(); comeBack(); });
  document.addEventListener("htmx:sse:after:message", () => { showAll(); comeBack(); });
  setInterval(showAll, 10000);
  showAll();
  showWhereOneIs();
})();
