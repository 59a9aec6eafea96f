// The chat page: /v1/models fills the menus, /v1/chat/completions streams the answers, /v1/feedback takes the thumbs.
const $ = (id) => document.getElementById(id);
const SIZES = [1, 2, 4, 8, 16, 32, 64];
const SUGGESTIONS = [
  "How do I kill a process in Linux?",
  "What is 17 + 25?",
  "You are useless.",
  "Spell the word house backwards.",
];

// What the browser keeps, unless it keeps nothing: then for as long as the page is open.
const unkept = {};
function stored(name) {
  try {
    return localStorage.getItem(name) ?? unkept[name];
  } catch {
    return unkept[name];
  }
}
function store(name, value) {
  unkept[name] = value;
  try {
    localStorage.setItem(name, value);
  } catch {
    // It is in `unkept`.
  }
}

// One name for each browser, so that a changed thumb replaces the first one. It says nothing of the person.
const USER = (() => {
  const known = stored("rectify-user");
  if (known) return known;
  const fresh = `web-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("")}`;
  store("rectify-user", fresh);
  return fresh;
})();

let history = [];
let running = null; // The AbortController of the answer in progress.

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Every request goes through here: with the key, if the person gave one, and to the key's field if the server asks for it.
async function request(path, options = {}) {
  const key = stored("rectify-key");
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) askForKey();
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response;
}

function askForKey() {
  $("key-field").hidden = false;
  $("key").focus();
}

async function fillMenus() {
  const { data } = await (await request("/v1/models")).json();
  $("model").replaceChildren();
  $("reward").replaceChildren();
  for (const model of data.filter((m) => m.kind === "policy" || m.kind === "adapter")) {
    $("model").append(new Option(model.id));
  }
  const rewards = data.filter((m) => m.kind === "reward");
  $("reward").append(new Option("default", ""), ...rewards.map((m) => new Option(m.id)));
  if (rewards.length === 0) {
    $("n").value = 0;
    $("n").disabled = true;
    $("n").title = "This server has no reward model to choose with.";
  }
  showSettings();
}

function showSettings() {
  const n = SIZES[$("n").value];
  $("n-value").textContent = n;
  $("n").setAttribute("aria-valuetext", n === 1 ? "1 candidate" : `${n} candidates`);
  $("temperature-value").textContent = $("temperature").value;
  $("reward-field").hidden = n === 1 || $("reward").options.length < 3;
}

function addTurn(role, text) {
  const item = element("li", role);
  item.append(element("span", "visually-hidden", role === "user" ? "You:" : "Answer:"), element("div", "text", text));
  $("log").append(item);
  $("welcome").hidden = true;
  item.scrollIntoView({ block: "end" });
  return item;
}

// Server-sent events by hand: EventSource cannot POST, and the comments carry the progress.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const frame = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      for (const line of frame.split("\n")) {
        if (line.startsWith("data: ")) yield { data: line.slice(6) };
        else if (line.startsWith(": ")) yield { comment: line.slice(2) };
      }
    }
  }
}

async function ask(text) {
  const n = SIZES[$("n").value];
  addTurn("user", text);
  history.push({ role: "user", content: text });
  const turn = addTurn("assistant", "…");
  turn.classList.add("waiting");
  const body = {
    model: $("model").value,
    messages: history,
    temperature: Number($("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
    user: USER,
  };
  if (n > 1) {
    body.alignment = { strategy: "best_of_n", n, return_candidates: true };
    if ($("reward").value) body.alignment.reward = $("reward").value;
  }
  running = new AbortController();
  setBusy(true);
  const started = performance.now();
  let answer = "";
  try {
    const response = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    let bar = null;
    let chunkWith = {};
    for await (const { data, comment } of events(response)) {
      if (comment !== undefined) {
        const counts = /(\d+)\/(\d+) done/.exec(comment);
        if (!counts) continue;
        if (!bar) turn.append((bar = element("progress")));
        bar.max = Number(counts[2]);
        bar.value = Number(counts[1]);
        bar.setAttribute("aria-label", "Candidates scored");
        $("status").textContent = `${counts[1]} of ${counts[2]} candidates are done`;
        continue;
      }
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      if (choice?.delta.content) {
        answer += choice.delta.content;
        turn.classList.remove("waiting");
        turn.querySelector(".text").textContent = answer;
      }
      chunkWith.id = chunk.id;
      if (choice?.reward !== undefined) chunkWith.reward = choice.reward;
      if (chunk.alignment) chunkWith.alignment = chunk.alignment;
      if (chunk.usage) chunkWith.usage = chunk.usage;
    }
    bar?.remove();
    turn.classList.remove("waiting");
    turn.querySelector(".text").textContent = answer || "(an empty answer)";
    history.push({ role: "assistant", content: answer });
    showOutcome(turn, chunkWith, (performance.now() - started) / 1000);
  } catch (error) {
    turn.querySelector("progress")?.remove();
    turn.classList.remove("waiting");
    if (error.name === "AbortError") {
      turn.querySelector(".text").textContent = answer || "(stopped)";
      if (answer) history.push({ role: "assistant", content: answer });
      else history.pop();
    } else {
      turn.classList.add("failed");
      turn.querySelector(".text").textContent = error.message;
      history.pop();
    }
    $("status").textContent = "";
  } finally {
    running = null;
    setBusy(false);
    turn.scrollIntoView({ block: "end" });
  }
}

function number(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2);
}

function showOutcome(turn, { id, reward, alignment, usage }, seconds) {
  const parts = [];
  if (alignment) parts.push(`best of ${alignment.n}`, `reward ${number(reward)}`);
  if (alignment && alignment.scoring !== "ok") parts.push(`scoring ${alignment.scoring}`);
  if (usage) parts.push(`${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`);
  if (alignment) parts.push(`at most ${number(alignment.kl_bound)} nats from the policy`);
  const foot = element("div", "foot");
  if (id) foot.append(votingButtons(id));
  foot.append(element("p", "meta", parts.join(" · ")));
  turn.append(foot);
  $("status").textContent = alignment ? `The best of ${alignment.n} answers has reward ${number(reward)}.` : "The answer is complete.";
  if (alignment?.candidates) turn.append(candidateList(alignment));
}

const THUMBS = [
  { value: 1, label: "Good answer", path: "M7 10v11H3V10h4Zm3 11h7.5a2 2 0 0 0 2-1.6l1.4-7A2 2 0 0 0 19 10h-5l.8-4.4A2.2 2.2 0 0 0 12.7 3L9 10v9a2 2 0 0 0 1 2Z" },
  { value: -1, label: "Bad answer", path: "M17 14V3h4v11h-4ZM14 3H6.5a2 2 0 0 0-2 1.6l-1.4 7A2 2 0 0 0 5 14h5l-.8 4.4A2.2 2.2 0 0 0 11.3 21L15 14V5a2 2 0 0 0-1-2Z" },
];

// Thumbs on an answer, and after one a line for words.
function votingButtons(id) {
  const group = element("span", "votes");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Rate this answer");
  const buttons = THUMBS.map(({ value, label, path }) => {
    const button = element("button", "thumb");
    button.type = "button";
    button.title = label;
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-pressed", "false");
    button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${path}"/></svg>`;
    button.addEventListener("click", () => vote(value, undefined));
    return button;
  });
  async function vote(value, comment) {
    try {
      await request("/v1/feedback", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ completion_id: id, kind: "thumb", value, comment, user: USER, replace: true }),
      });
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(THUMBS[index].value === value)));
      $("status").textContent = comment ? "Thank you for the words." : "Thank you, the vote is stored.";
      askForWords(group, value, vote);
    } catch (error) {
      $("status").textContent = `The vote was not stored: ${error.message}`;
    }
  }
  group.append(...buttons);
  return group;
}

function askForWords(group, value, vote) {
  group.querySelector("form")?.remove();
  const form = element("form", "words");
  const field = element("input");
  field.maxLength = 1000;
  field.placeholder = value > 0 ? "What was good? (optional)" : "What was wrong? (optional)";
  field.setAttribute("aria-label", field.placeholder);
  form.append(field, element("button", "quiet", "Send"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = field.value.trim();
    if (words) await vote(value, words);
    group.querySelector("form")?.remove();
  });
  group.append(form);
}

function candidateList({ candidates, selected }) {
  const details = element("details");
  details.append(element("summary", "", `${candidates.length} candidates`));
  const list = element("ol", "candidates");
  const rewards = candidates.map((c) => c.reward).filter((r) => r !== null);
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const rank = (candidate) => candidate.reward ?? -Infinity;
  for (const candidate of [...candidates].sort((a, b) => rank(b) - rank(a))) {
    const item = element("li", selected.includes(candidate.index) ? "chosen" : "");
    const bar = element("span", "bar");
    const share = high > low && candidate.reward !== null ? (candidate.reward - low) / (high - low) : 1;
    const fill = element("i");
    fill.style.width = `${Math.round(4 + 96 * share)}%`;
    bar.append(fill);
    const said = element("span", "said", candidate.text || "(empty)");
    said.append(element("small", "", `  ${candidate.tokens} tokens${selected.includes(candidate.index) ? " · chosen" : ""}`));
    item.append(element("span", "reward", number(candidate.reward)), bar, said);
    list.append(item);
  }
  details.append(list);
  return details;
}

function setBusy(busy) {
  $("send").textContent = busy ? "Stop" : "Send";
  $("clear").disabled = busy;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = $("prompt").value.trim();
  if (!text) return;
  $("prompt").value = "";
  ask(text);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) $("composer").requestSubmit();
  }
});
$("settings").addEventListener("input", showSettings);
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => {
  history = [];
  $("log").replaceChildren();
  $("welcome").hidden = false;
  $("status").textContent = "";
  $("prompt").focus();
});
for (const text of SUGGESTIONS) {
  const button = element("button", "quiet", text);
  button.type = "button";
  button.addEventListener("click", () => running || ask(text));
  const item = element("li");
  item.append(button);
  $("suggestions").append(item);
}
function start() {
  $("status").textContent = "";
  fillMenus().catch((error) => {
    // A failed fetch is a TypeError; what the server said is an Error.
    $("status").textContent =
      error instanceof TypeError ? "The server does not answer; is it still running?" : error.message;
  });
}
$("key").addEventListener("change", () => {
  store("rectify-key", $("key").value.trim());
  start();
});
start();
