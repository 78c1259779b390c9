// The blinded comparison. Which of two pictures is A is known to the functions below alone until it is revealed.

// A whole number of 0 to count - 1, each as likely: numbers that would favour the small ones are drawn again.
function drawn(count) {
  const fair = 2 ** 32 - (2 ** 32 % count);
  const number = new Uint32Array(1);
  do crypto.getRandomValues(number); while (number[0] >= fair);
  return number[0] % count;
}

function shuffled(items) {
  const mixed = [...items];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = drawn(last + 1);
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

// Two-sided sign test: how often as many tosses of a coin as there are preferences come out at least as one-sided.
function chanceOf(some, others) {
  const tosses = some + others;
  let ways = 1, extreme = 0;
  for (let heads = 0; heads <= Math.min(some, others); heads++) {
    extreme += ways;
    ways *= (tosses - heads) / (heads + 1);
  }
  return Math.min(1, (2 * extreme) / 2 ** tosses);
}

function chanceSentence(some, others) {
  const tosses = some + others, chance = chanceOf(some, others);
  if (!tosses) return "Without a preference there is nothing that chance would have to explain.";
  const share = chance < 0.001 ? "less than 0.1" : chance < 0.1 ? (100 * chance).toFixed(1) : Math.round(100 * chance);
  const verdict = chance <= 0.05 ? "Chance alone hardly explains this"
    : tosses < 6 ? "This could well be chance, as fewer than six preferences always could" : "This could well be chance";
  const coins = tosses === 1 ? "a coin tossed for the one frame" : `a coin tossed for each of the ${tosses} frames`;
  return `${verdict}: ${coins} with a preference comes out at least this one-sided in ${share} % of cases.`;
}

function tallySentence(names, counts) {
  const count = counts.after + counts.base + counts.neither;
  if (!count) return "You judged no frame.";
  return `You preferred ${names.after} in ${counts.after} of ${count} frame${count === 1 ? "" : "s"}, ` +
    `${names.base} in ${counts.base}, and saw no difference in ${counts.neither}.`;
}

function startBlind(section) {
  const find = (name) => section.querySelector(name);
  const strip = section.closest(".shot").querySelectorAll(".viewer .strip button");
  const names = JSON.parse(section.dataset.names);
  const [judging, result, said, start] = ["judging", "result", "said", "start"].map((name) => find(".blind-" + name));
  const stage = find(".stage"), pane = find(".blind-pane"), tag = find(".tag");
  const flips = section.querySelectorAll("[data-show]");
  let order = [], judged = [], current = null;

  function flip(place) {
    [...pane.children].forEach((picture, number) => picture.classList.toggle("shown", number === place));
    flips.forEach((button, number) => button.setAttribute("aria-pressed", String(number === place)));
    tag.textContent = "AB"[place];
  }
  async function present() {
    const frame = order[judged.length];
    const asked = { frame: frame.dataset.frame, kinds: drawn(2) ? ["base", "after"] : ["after", "base"], ready: false };
    const pictures = asked.kinds.map((kind, place) => {
      const picture = new Image();
      picture.alt = "Picture " + "AB"[place];
      picture.draggable = false;
      picture.decoding = "sync";
      picture.src = frame.dataset[kind];
      return picture;
    });
    current = asked;
    // Both are decoded before either is seen, so that neither is told by how soon it appears.
    await Promise.allSettled(pictures.map((picture) => picture.decode()));
    if (current !== asked) return;
    pane.replaceChildren(...pictures);
    find(".blind-where").textContent = `Comparison ${judged.length + 1} of ${order.length}`;
    flip(0);
    asked.ready = true;
  }
  function answer(place) {
    if (!current?.ready) return;
    judged.push({ ...current, chosen: current.kinds[place] ?? "neither" });
    if (judged.length < order.length) present();
    else reveal();
  }
  function reveal() {
    const seen = judged.length < order.length && current.ready ? [...judged, current] : judged;
    const counts = { after: 0, base: 0, neither: 0 };
    for (const { chosen } of judged) counts[chosen] += 1;
    const words = { ...names, neither: "no difference" };
    find("tbody").replaceChildren(...seen.map(({ frame, kinds, chosen }) => {
      const row = document.createElement("tr");
      const letter = "AB"[kinds.indexOf(chosen)];
      const choice = chosen ? (letter ? letter + ", " : "") + words[chosen] : "not judged";
      [frame, words[kinds[0]], words[kinds[1]], choice].forEach((cell, column) => {
        const made = document.createElement(column ? "td" : "th");
        made.textContent = cell;
        row.append(made);
      });
      row.firstChild.scope = "row";
      return row;
    }));
    const lines = [tallySentence(names, counts), ...(judged.length ? [chanceSentence(counts.after, counts.base)] : [])];
    said.replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
    current = null;
    pane.replaceChildren();
    start.textContent = "Start again";
    turn(false);
    said.focus({ preventScroll: true });
    section.scrollIntoView({ block: "nearest" });
  }
  function turn(judgingNow) {
    judging.hidden = !judgingNow;
    start.hidden = judgingNow;
    result.hidden = judgingNow;
  }
  function begin() {
    order = shuffled(strip);
    judged = [];
    said.replaceChildren();
    turn(true);
    present();
    stage.focus({ preventScroll: true });
    judging.scrollIntoView({ block: "nearest" });
  }

  startMagnifier(stage, [pane], section.querySelectorAll("[data-zoom]"));
  start.addEventListener("click", begin);
  find(".blind-reveal").addEventListener("click", reveal);
  flips.forEach((button, place) => button.addEventListener("click", () => flip(place)));
  section.querySelectorAll("[data-answer]").forEach((button, place) => {
    // The second click of a double-click would judge a frame that nobody has looked at.
    button.addEventListener("click", (event) => { if (event.detail < 2) answer(place); });
  });
  section.addEventListener("keydown", (event) => {
    if (judging.hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const key = event.key.toLowerCase();
    if (key === "a" || key === "b") flip(key === "a" ? 0 : 1);
    else if (["1", "2", "3"].includes(key)) answer(Number(key) - 1);
  });
}

document.querySelectorAll(".blind").forEach(startBlind);
