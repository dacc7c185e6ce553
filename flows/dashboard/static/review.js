// The review queue: decisions by key, kept in the browser until the server has them.
"use strict";

const AHEAD = 5; // Images that are fetched in advance.
const ENDED = "your session has ended; load this page again and give the password, nothing is lost";
const OUTBOX = "nelbo outbox", NAME = "nelbo reviewer"; // Kept through reloads, for all tabs of this browser.
const queue = JSON.parse(document.getElementById("queue").textContent);
const page = document.getElementById("review"), place = document.getElementById("item");
const note = document.getElementById("note"), who = document.getElementById("who");
const kinds = JSON.parse(page.dataset.kinds);
const fetched = new Map(); // Place of an image -> a promise of its HTML.
const done = []; // What was decided or skipped here, the latest at the end.
let at = 0, shown = null, sending = false, unheard = ""; // `unheard`: why waiting decisions are not kept yet.

// Decisions

function stored(name, empty) {
  return JSON.parse(localStorage.getItem(name) ?? JSON.stringify(empty));
}

function keep(decision) {
  localStorage.setItem(OUTBOX, JSON.stringify([...stored(OUTBOX, []), decision]));
  send();
}

function drop(decision) {
  localStorage.setItem(OUTBOX, JSON.stringify(stored(OUTBOX, []).filter((one) => one.review_id !== decision.review_id)));
}

/** Send waiting decisions in order; those that the server does not keep are sent again. */
async function send() {
  if (sending) return;
  sending = true;
  for (let wait = 250; ; wait = Math.min(2 * wait, 4000)) {
    const [next] = stored(OUTBOX, []);
    tell();
    if (!next) break;
    const answer = await post(next);
    if (answer.again) {
      unheard = answer.again;
      tell();
      await new Promise((resolve) => setTimeout(resolve, wait));
      continue;
    }
    unheard = "";
    wait = 125;
    if (answer.refused) refused(next, answer.refused);
    drop(next);
  }
  sending = false;
}

/** Post a decision: empty if it is kept, `refused` or `again` with the reason if it is not. */
async function post(decision) {
  try {
    const answer = await fetch("/reviews", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(decision),
    });
    if (answer.ok) return {};
    if ([409, 413, 422].includes(answer.status)) {
      const said = await answer.json().catch(() => ({}));
      return { refused: said.said ?? `the server says ${answer.status}` };
    }
    return { again: answer.status === 401 ? ENDED : `the server says ${answer.status}` };
  } catch {
    return { again: "the server does not answer" };
  }
}

/** Say why a decision was not kept, and put the image at the end of the queue again. */
function refused(decision, why) {
  const list = document.getElementById("failed"), line = document.createElement("li");
  line.textContent = `Not kept: ${decision.path}, ${decision.decision}${decision.note ? `, “${decision.note}”` : ""}: ${why}`;
  list.append(line);
  list.hidden = false;
  const place = done.findIndex((one) => one.decision?.review_id === decision.review_id);
  if (place >= 0) queue.push(queue[done.splice(place, 1)[0].i]);
  // The queue had ended.
  if (at === queue.length - 1 && shown === null) show(at);
}

function tell() {
  const waiting = stored(OUTBOX, []).length, own = done.filter((one) => one.decision).length;
  const decided = Number(page.dataset.decided) + own, all = Number(page.dataset.decided) + Number(page.dataset.left);
  document.getElementById("progress").textContent = `${decided} of ${all} decided`;
  document.getElementById("kept").textContent =
    waiting ? `${waiting} waiting for the server${unheard ? `: ${unheard}` : ""}` : own ? "all kept" : "";
  page.querySelector("progress").value = all ? decided / all : 1;
}

// Images

/** An image, or why it is not shown; a failed one is fetched again when it is needed again. */
function get(i) {
  const { place } = queue[i];
  if (!fetched.has(place)) fetched.set(place, drawn(place));
  return fetched.get(place);
}

async function drawn(place) {
  const holder = document.createElement("div");
  for (;;) {
    try {
      const answer = await fetch(place);
      if (answer.ok) {
        holder.innerHTML = await answer.text();
        break;
      }
      if (![502, 503, 504].includes(answer.status)) {
        fetched.delete(place);
        holder.className = "warning";
        holder.textContent = answer.status === 401 ? ENDED : `This image cannot be shown (the server says ${answer.status}). Skip it.`;
        break;
      }
    } catch { /* The server may come back. */ }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  await Promise.all([...holder.querySelectorAll("img")].map((img) => img.decode().catch(() => {})));
  return holder;
}

async function show(i) {
  at = i;
  shown = null;
  tell();
  const end = document.getElementById("end"), skipped = done.filter((one) => !one.decision).length;
  end.hidden = i < queue.length;
  document.getElementById("answers").hidden = place.hidden = i >= queue.length && !done.length;
  if (i >= queue.length) {
    place.replaceChildren();
    const more = Number(page.dataset.left) - new Set(queue.map((item) => item.place)).size;
    end.textContent = !queue.length ? "There is nothing to decide on here."
      : more > 0 ? `${more} more are left. Load the page again to see them.`
      : skipped ? `${skipped} skipped, and no other is left. Load the page again to see them.`
      : "Every image of this queue is decided on.";
    return;
  }
  for (let next = i + 1; next <= Math.min(i + AHEAD, queue.length - 1); next++) get(next);
  const holder = await get(i);
  if (at !== i) return;
  for (const passed of queue.slice(0, Math.max(0, i - AHEAD))) fetched.delete(passed.place);
  place.replaceChildren(...(holder.className ? [holder.cloneNode(true)] : holder.cloneNode(true).childNodes));
  window.htmx?.process(place);
  tellTimes(place);
  note.value = "";
  shown = i;
  place.dataset.shown = queue[i].image;
}

// Answers

function newId() {
  return "v" + Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function decide(decision, kind = null) {
  // An item without a heading could not be shown.
  if (shown === null || !named() || !place.querySelector("h2")) return;
  const text = note.value.replace(/\p{Cc}/gu, " ").trim();
  note.setCustomValidity(
    decision === "anomalous" && text.startsWith("#") && text.length - 1 > page.dataset.longestKind
      ? `A kind has at most ${page.dataset.longestKind} letters.` : "",
  );
  if (!note.reportValidity()) return;
  // A text that begins with # names a new kind.
  if (decision === "anomalous" && text.startsWith("#")) {
    kind = text.slice(1).trim();
    if (kind && !kinds.includes(kind)) kinds.push(kind);
    offer();
  }
  const { image, path, model, batch } = queue[shown];
  const said = {
    review_id: newId(), image, path, model, batch, decision, kind: decision === "anomalous" ? kind : null,
    note: text.startsWith("#") && decision === "anomalous" ? "" : text, reviewer: named(),
  };
  done.push({ i: shown, decision: said });
  keep(said);
  note.blur();
  show(shown + 1);
}

function skip() {
  if (shown === null) return;
  done.push({ i: shown, decision: null });
  show(shown + 1);
}

function undo() {
  const last = done.pop();
  if (!last) return;
  if (last.decision) {
    const { review_id: withdraws } = last.decision;
    keep({ ...last.decision, review_id: newId(), decision: "withdrawn", kind: null, note: "", withdraws });
  }
  show(last.i);
}

const answers = { d: () => decide("anomalous"), g: () => decide("normal"), s: skip, u: undo };

function offer() {
  document.getElementById("kinds").replaceChildren(...kinds.slice(0, 9).map((kind, i) => {
    const button = document.createElement("button"), key = document.createElement("kbd");
    button.type = "button";
    button.dataset.key = key.textContent = String(i + 1);
    button.append(key, ` ${kind}`);
    return button;
  }));
}

function answer(key) {
  const kind = kinds[Number(key) - 1];
  if (kind) decide("anomalous", kind);
  else answers[key]?.();
}

document.getElementById("answers").addEventListener("click", (event) => {
  const button = event.target.closest("[data-key]");
  if (button) answer(button.dataset.key);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === note) {
    if (event.key === "Enter" || event.key === "Escape") note.blur();
    return;
  }
  // A key that is held down counts once.
  if (event.repeat || event.target.closest("input, select, textarea")) return;
  if (event.key === "n") {
    note.focus();
    event.preventDefault();
  } else if (!event.target.closest("button, summary, a") || event.key.length === 1) {
    if (event.key !== " ") answer(event.key);
  }
});

// Who decides

function named() {
  return localStorage.getItem(NAME) ?? "";
}

function welcome(isAsking = !named()) {
  who.reviewer.value = named();
  who.classList.toggle("known", !isAsking);
  who.querySelector("button[type=button]").textContent = `You are ${named()}`;
  document.getElementById("answers").hidden = place.hidden = isAsking;
  const link = document.querySelector("[data-second-opinion]");
  if (link) link.hidden = !named();
  if (link && named()) link.search = new URLSearchParams([...new URLSearchParams(link.search), ["by", named()]]);
  if (isAsking) who.reviewer.focus();
}

who.querySelector("button[type=button]").addEventListener("click", () => welcome(true));
who.addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem(NAME, who.reviewer.value.trim());
  welcome();
  if (named()) show(at);
});

page.hidden = false;
offer();
welcome();
send();
if (named()) show(0);
else tell();
