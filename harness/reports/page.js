"use strict";
// Everything that a model said is put in as text, never as markup.
(() => {
  const { samples, pictures } = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("list");
  const count = document.getElementById("count");
  const filters = document.getElementById("filters");
  const PAGE = 40;
  // A verdict's sign: what is right, what is wrong, and what is neither.
  const GOOD = ["right", "clean"];
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
  const search = make("input", { type: "search", name: "search", placeholder: "words of question or answer" });
  filters.append(make("label", {}, "Search", search));

  const matches = (sample) => {
    if (suite.value && `${sample.suite} · ${sample.data}` !== suite.value) return false;
    if (changed.value && sample.changed !== (changed.value === "changed")) return false;
    const answers = run.value ? sample.answers.filter((answer) => answer.run === run.value) : sample.answers;
    if (!answers.some((answer) => (!verdict.value || [answer.verdict, sign(answer.verdict)].includes(verdict.value)) && (!object.value || answer.wrong.includes(object.value)))) return false;
    const words = search.value.trim().toLowerCase();
    return !words || [sample.question, sample.truth, ...answers.map((answer) => answer.text)].some((text) => text.toLowerCase().includes(words));
  };

  const marked = (answer) => {
    const paragraph = make("p");
    // Places count characters as Python does; JavaScript counts halves of some.
    const letters = Array.from(answer.text);
    let at = 0;
    for (const [start, end, kind, label] of [...answer.marks].sort((one, other) => one[0] - other[0])) {
      if (start < at) continue;
      paragraph.append(letters.slice(at, start).join(""));
      const mark = make("mark", { class: kind, title: `${label}: ${kind}` }, letters.slice(start, end).join(""));
      mark.append(make("span", { "aria-hidden": "true" }, ` ${MARKS[kind] || ""}`));
      paragraph.append(mark);
      at = end;
    }
    paragraph.append(letters.slice(at).join("") || (answer.text ? "" : "(nothing was said)"));
    return paragraph;
  };

  const shown = (answer) => {
    const box = make("div", { class: "answer" });
    box.append(make("h4", {}, make("span", {}, answer.run), make("span", { class: `tag ${{ "✓": "clean", "✗": "hallucinated", "?": "unjudged" }[sign(answer.verdict)]}` }, `${sign(answer.verdict)} ${answer.verdict}`)));
    box.append(marked(answer));
    const notes = [];
    if (answer.wrong.length) notes.push(`hallucinated: ${answer.wrong.join(", ")}`);
    if (answer.missed.length) notes.push(`not mentioned: ${answer.missed.join(", ")}`);
    if (answer.rating !== null && answer.rating !== undefined) notes.push(`rating ${answer.rating}`);
    if (answer.judge) notes.push(`judge: ${answer.judge}`);
    if (answer.unscored) notes.push(`not scored: ${answer.unscored}`);
    if (notes.length) box.append(make("p", { class: "meta" }, notes.join("\n")));
    return box;
  };

  const card = (sample) => {
    const article = make("article", { class: "sample", id: sample.id, tabindex: "-1" });
    const picture = make("div");
    const source = sample.picture && pictures[sample.picture];
    picture.append(source ? make("img", { src: source, alt: `picture of ${sample.id}`, loading: "lazy" }) : make("p", { class: "meta" }, "no picture at hand"));
    const body = make("div");
    body.append(make("h3", {}, sample.question || "(description)"));
    const link = make("a", { href: `#${encodeURIComponent(sample.id)}` }, sample.id);
    body.append(make("p", { class: "meta" }, link, ` · ${sample.suite} · ${sample.data}`));
    if (sample.truth) body.append(make("p", { class: "meta" }, `truth: ${sample.truth}`));
    const answers = make("div", { class: "answers" });
    for (const answer of sample.answers) answers.append(shown(answer));
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

  const refresh = () => {
    found = samples.filter(matches);
    next = 0;
    list.replaceChildren();
    count.textContent = `${found.length.toLocaleString()} of ${samples.length.toLocaleString()} samples`;
    grow();
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

  let waiting = 0;
  for (const kind of ["input", "change"]) filters.addEventListener(kind, () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", jump);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); return; }
    if (event.key !== "j" && event.key !== "k") return;
    const cards = [...list.querySelectorAll(".sample")];
    const current = cards.indexOf(document.activeElement.closest(".sample"));
    const target = cards[current < 0 ? 0 : current + (event.key === "j" ? 1 : -1)];
    if (target) { target.focus(); target.scrollIntoView({ block: "start" }); }
  });
  refresh();
  jump();
})();
