"use strict";
// Everything that a model said is put in as text, never as markup.
(() => {
  const { samples, pictures } = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("list");
  const count = document.getElementById("count");
  const filters = document.getElementById("filters");
  const PAGE = 40;
  // A verdict's sign: what is right, what is wrong, and what is neither.
  const GOOD = ["correct", "clean"];
  const BAD = ["invented", "wrong: false yes", "wrong: false no", "wrong: other option", "wrong: unreadable"];
  const NEITHER = ["missed", "unscored"];
  const sign = (verdict) => GOOD.includes(verdict) ? "✓" : BAD.includes(verdict) ? "✗" : "?";
  const MARKS = { correct: "✓", hallucinated: "✗", unjudged: "?" };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const unique = (values) => [...new Set(values)].filter(Boolean).sort();
  const suites = unique(samples.map((sample) => `${sample.suite} · ${sample.data}`));
  const runs = [...new Set(samples.flatMap((sample) => sample.answers.map((answer) => answer.run)))];
  const said = new Set(samples.flatMap((sample) => sample.answers.map((answer) => answer.verdict)));
  const verdicts = [...BAD, ...GOOD, ...NEITHER].filter((one) => said.has(one));
  const objects = unique(samples.flatMap((sample) => sample.answers.flatMap((answer) => answer.wrong)));

  const choice = (name, label, options) => {
    const select = make("select", { name });
    for (const [value, text] of options) select.append(make("option", { value }, text));
    filters.append(make("label", {}, label, select));
    return select;
  };
  const suite = choice("suite", "Suite", [["", "all"], ...suites.map((one) => [one, one])]);
  const run = choice("run", "Checkpoint", [["", "any"], ...runs.map((one) => [one, one])]);
  const verdict = choice("verdict", "Verdict", [
    ["", "any"],
    ...["✗", "✓", "?"].filter((one) => verdicts.some((other) => sign(other) === one)).map((one) => [one, `${one} any of them`]),
    ...verdicts.map((one) => [one, `${sign(one)} ${one}`]),
  ]);
  const object = choice("object", "Hallucinated object", [["", "any"], ...objects.map((one) => [one, one])]);
  const changed = choice("changed", "Between checkpoints", [["", "all"], ["changed", "changed"], ["same", "the same"]]);
  const order = choice("order", "Order", [["", "as asked"], ["wrong", "most hallucinated objects"], ["apart", "largest difference"], ["long", "longest answer"]]);
  const left = choice("left", "Compare", [["", "all checkpoints"], ...runs.map((one) => [one, one])]);
  const right = choice("right", "with", [["", "all checkpoints"], ...runs.map((one) => [one, one])]);
  const search = make("input", { type: "search", name: "search", placeholder: "words of question or answer" });
  filters.append(make("label", {}, "Search", search));
  const save = make("button", { type: "button", name: "save" }, "Save as JSON lines");
  filters.append(save);

  // Two different checkpoints are compared: only their answers are shown, and samples that both answered.
  const pair = () => left.value && right.value && left.value !== right.value ? [left.value, right.value] : null;
  const answersOf = (sample) => {
    const two = pair();
    return two ? two.map((name) => sample.answers.find((answer) => answer.run === name)).filter(Boolean) : sample.answers;
  };

  const matches = (sample) => {
    if (suite.value && `${sample.suite} · ${sample.data}` !== suite.value) return false;
    if (changed.value && sample.changed !== (changed.value === "changed")) return false;
    const compared = answersOf(sample);
    if (pair() && compared.length < 2) return false;
    const answers = run.value ? compared.filter((answer) => answer.run === run.value) : compared;
    if (!answers.some((answer) => (!verdict.value || [answer.verdict, sign(answer.verdict)].includes(verdict.value)) && (!object.value || answer.wrong.includes(object.value)))) return false;
    const words = search.value.trim().toLowerCase();
    return !words || [sample.question, sample.truth, ...answers.map((answer) => answer.text)].some((text) => text.toLowerCase().includes(words));
  };

  // Words of a text as [word, start, end], in letters.
  const words = (letters) => {
    const list = [];
    letters.forEach((letter, at) => {
      if (/\s/.test(letter)) return;
      const last = list[list.length - 1];
      if (last && last[2] === at) { last[0] += letter; last[2] = at + 1; } else list.push([letter, at, at + 1]);
    });
    return list;
  };

  // The letters of words that are not in a longest common subsequence with another text's words.
  const differing = (letters, other) => {
    const only = new Array(letters.length).fill(false);
    const [one, two] = [words(letters), words(other)];
    const same = one.map(() => false);
    if (one.length * two.length <= 4e6) {
      const table = Array.from({ length: one.length + 1 }, () => new Uint16Array(two.length + 1));
      for (let i = one.length - 1; i >= 0; i -= 1)
        for (let j = two.length - 1; j >= 0; j -= 1)
          table[i][j] = one[i][0] === two[j][0] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
      for (let i = 0, j = 0; i < one.length && j < two.length;) {
        if (one[i][0] === two[j][0]) { same[i] = true; i += 1; j += 1; } else if (table[i + 1][j] >= table[i][j + 1]) i += 1; else j += 1;
      }
    }
    one.forEach(([, start, end], number) => { if (!same[number]) only.fill(true, start, end); });
    return only;
  };

  // Letters that the search finds.
  const hits = (letters) => {
    const found = new Array(letters.length).fill(false);
    const wanted = search.value.trim().toLowerCase();
    const lower = letters.map((letter) => letter.toLowerCase()).map((letter) => letter.length === 1 ? letter : letter[0]).join("");
    for (let at = wanted ? lower.indexOf(wanted) : -1; at >= 0; at = lower.indexOf(wanted, at + 1)) found.fill(true, at, at + wanted.length);
    return found;
  };

  // A text in which searched words, words that only this answer has, and mentions are marked.
  const marked = (text, marks, other) => {
    const paragraph = make("p");
    // Places count characters as Python does; JavaScript counts halves of some.
    const letters = Array.from(text);
    const only = other === null ? [] : differing(letters, Array.from(other));
    const hit = hits(letters);
    const styled = (start, end) => {
      const parts = [];
      for (let at = start; at < end;) {
        let to = at + 1;
        while (to < end && only[to] === only[at] && hit[to] === hit[at]) to += 1;
        const part = letters.slice(at, to).join("");
        const kinds = [only[at] ? "only" : "", hit[at] ? "hit" : ""].filter(Boolean).join(" ");
        parts.push(kinds ? make("span", { class: kinds }, part) : part);
        at = to;
      }
      return parts;
    };
    let at = 0;
    for (const [start, end, kind, label] of [...marks].sort((one, two) => one[0] - two[0])) {
      if (start < at) continue;
      const mark = make("mark", { class: kind, title: `${label}: ${kind}` }, ...styled(start, end));
      mark.append(make("span", { "aria-hidden": "true" }, ` ${MARKS[kind] || ""}`));
      paragraph.append(...styled(at, start), mark);
      at = end;
    }
    paragraph.append(...styled(at, letters.length));
    if (!text) paragraph.append("(nothing was said)");
    return paragraph;
  };

  const shown = (answer, other) => {
    const box = make("div", { class: "answer" });
    box.append(make("h4", {}, make("span", {}, answer.run), make("span", { class: `tag ${{ "✓": "clean", "✗": "hallucinated", "?": "unjudged" }[sign(answer.verdict)]}` }, `${sign(answer.verdict)} ${answer.verdict}`)));
    box.append(marked(answer.text, answer.marks, other));
    const notes = [];
    if (answer.wrong.length) notes.push(`hallucinated: ${answer.wrong.join(", ")}`);
    if (answer.missed.length) notes.push(`not mentioned: ${answer.missed.join(", ")}`);
    if (answer.rating !== null && answer.rating !== undefined) notes.push(`rating ${answer.rating}`);
    if (answer.judge) notes.push(`judge: ${answer.judge}`);
    if (answer.unscored) notes.push(`not scored: ${answer.unscored}`);
    if (notes.length) box.append(make("p", { class: "meta" }, notes.join("\n")));
    return box;
  };

  // A click on a picture shows it as large as the window; a click or Escape closes it, and returns to the picture.
  const enlarged = make("dialog", { "aria-label": "enlarged picture" });
  document.body.append(enlarged);
  enlarged.addEventListener("click", () => enlarged.close());
  const zoomable = (source, id) => {
    const button = make("button", { type: "button", class: "zoom", title: "enlarge" }, make("img", { src: source, alt: `picture of ${id}`, loading: "lazy" }));
    button.addEventListener("click", () => {
      enlarged.replaceChildren(make("button", { type: "button", title: "close" }, make("img", { src: source, alt: `enlarged picture of ${id}` })));
      enlarged.showModal();
    });
    return button;
  };

  const card = (sample) => {
    const article = make("article", { class: "sample", id: sample.id, tabindex: "-1" });
    const picture = make("div");
    const source = sample.picture && pictures[sample.picture];
    picture.append(source ? zoomable(source, sample.id) : make("p", { class: "meta" }, "no picture at hand"));
    const body = make("div");
    const title = make("h3");
    title.append(...marked(sample.question || "(description)", [], null).childNodes);
    body.append(title);
    const link = make("a", { href: `#${encodeURIComponent(sample.id)}` }, sample.id);
    body.append(make("p", { class: "meta" }, link, ` · ${sample.suite} · ${sample.data}`));
    if (sample.truth) body.append(make("p", { class: "meta" }, `truth: ${sample.truth}`));
    const answers = make("div", { class: "answers" });
    const told = answersOf(sample);
    for (const answer of told) {
      const other = pair() && told.find((one) => one !== answer);
      answers.append(shown(answer, other ? other.text : null));
    }
    body.append(answers);
    article.append(picture, body);
    return article;
  };

  let found = [];
  let next = 0;
  const more = make("button", { type: "button" }, "Show more");
  const grow = (upTo = next + PAGE) => {
    const fragment = document.createDocumentFragment();
    for (; next < Math.min(upTo, found.length); next += 1) fragment.append(card(found[next]));
    list.append(fragment);
    more.remove();
    if (next < found.length) list.append(more);
  };
  more.addEventListener("click", () => grow());
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && grow(), { rootMargin: "1200px" }).observe(more);

  // The settings of the form are in the address, so that a link shows the same list; a link to a sample is #ID.
  const fields = [suite, run, verdict, object, changed, order, left, right, search];
  const remember = () => {
    const state = new URLSearchParams(fields.filter((field) => field.value).map((field) => [field.name, field.value]));
    const text = state.toString();
    history.replaceState(null, "", text ? `#?${text}` : location.hash.startsWith("#?") ? "#" : location.hash || "#");
  };
  const restore = () => {
    if (!location.hash.startsWith("#?")) return false;
    const state = new URLSearchParams(location.hash.slice(2));
    filters.reset();
    for (const field of fields) {
      const value = state.get(field.name) || "";
      if (field === search || [...field.options].some((option) => option.value === value)) field.value = value;
    }
    return true;
  };

  const wrongs = (sample) => answersOf(sample).map((answer) => answer.wrong.length);
  const KEYS = {
    wrong: (sample) => Math.max(...wrongs(sample)),
    apart: (sample) => Math.max(...wrongs(sample)) - Math.min(...wrongs(sample)) + (sample.changed ? 0.5 : 0),
    long: (sample) => Math.max(...answersOf(sample).map((answer) => answer.text.length)),
  };
  const sorted = (list) => {
    const key = KEYS[order.value];
    return key ? list.map((sample) => [key(sample), sample]).sort((one, two) => two[0] - one[0]).map(([, sample]) => sample) : list;
  };

  save.addEventListener("click", () => {
    const rows = found.flatMap((sample) => answersOf(sample).map((answer) => JSON.stringify({
      id: sample.id, suite: sample.suite, data: sample.data, question: sample.question, truth: sample.truth, checkpoint: answer.run,
      verdict: answer.verdict, hallucinated: answer.wrong, missed: answer.missed, rating: answer.rating, unscored: answer.unscored, text: answer.text,
    })));
    const address = URL.createObjectURL(new Blob([rows.map((row) => `${row}\n`).join("")], { type: "application/jsonl" }));
    make("a", { href: address, download: "answers.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });

  const refresh = () => {
    clearTimeout(waiting);
    found = sorted(samples.filter(matches));
    next = 0;
    list.replaceChildren();
    count.textContent = `${found.length.toLocaleString()} of ${samples.length.toLocaleString()} samples`;
    grow();
    list.ariaBusy = "false";
  };
  // Between a change of the settings and the list that belongs to it, the list says that it is busy, for screen readers and for scripts.
  let waiting = 0;
  const refreshSoon = () => {
    clearTimeout(waiting);
    list.ariaBusy = "true";
    waiting = setTimeout(() => { remember(); refresh(); }, 120);
  };

  const jump = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const place = samples.findIndex((sample) => sample.id === id);
    if (place < 0) return;
    if (!found.includes(samples[place])) { filters.reset(); refresh(); }
    grow(Math.max(next, found.indexOf(samples[place]) + 1));
    const element = document.getElementById(id);
    element.scrollIntoView({ block: "start" });
    element.focus({ preventScroll: true });
  };

  for (const kind of ["input", "change"]) filters.addEventListener(kind, refreshSoon);
  filters.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => restore() ? refresh() : jump());
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (enlarged.open) return;
    if (event.key === "z") { document.activeElement.closest(".sample")?.querySelector(".zoom")?.click(); return; }
    if (event.key === "/") { event.preventDefault(); search.focus(); return; }
    if (event.key !== "j" && event.key !== "k") return;
    const cards = [...list.querySelectorAll(".sample")];
    const current = cards.indexOf(document.activeElement.closest(".sample"));
    const target = cards[current < 0 ? 0 : current + (event.key === "j" ? 1 : -1)];
    if (target) { target.focus(); target.scrollIntoView({ block: "start" }); }
  });
  restore();
  refresh();
  jump();

  // Where `harness view` serves the page, it is loaded again when something is new; the address keeps the settings.
  const state = document.documentElement.dataset.state;
  if (state) setInterval(async () => {
    try {
      const answer = await fetch("state");
      if (answer.ok && await answer.text() !== state) location.reload();
    } catch { /* the server has ended: the page stays as it is */ }
  }, 2000);
})();
