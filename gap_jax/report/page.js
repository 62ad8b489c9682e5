"use strict";
// The explorer of one prompt and the gallery of all arms. Each keeps its choices and redraws when they change.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  function show(image, number, alt) {
    image.src = data.pictures[number];
    image.classList.toggle("small", Boolean(data.small[number]));
    if (alt !== undefined) image.alt = alt;
  }

  function element(tag, text) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Sets a slider to `value` of `count` places; `text` says which place that is.
  function setSlider(root, name, count, value, text) {
    const box = root.querySelector(`.slider[data-control="${name}"]`);
    const input = box.querySelector("input");
    box.hidden = count < 2;
    input.max = Math.max(count - 1, 0);
    input.value = value;
    input.setAttribute("aria-valuetext", text);
    box.querySelector("output").textContent = text;
  }

  // Calls `change(name, number)` for every slider and choice in `root`.
  function listen(root, change) {
    root.addEventListener("input", (event) => {
      const control = event.target.closest("[data-control]");
      if (control) change(control.dataset.control, Number(event.target.value));
    });
  }

  const clamp = (value, count) => Math.min(value, count - 1);

  function explore(root) {
    const chosen = { arm: 0, prompt: 0, image: 0, step: 0 };
    let described = null; // the prompt and image whose strip, losses and words are on the page

    function choose(name, value) {
      const before = frames()[chosen.step].step;
      chosen[name] = value;
      chosen.prompt = clamp(chosen.prompt, data.explored[chosen.arm].length);
      chosen.image = clamp(chosen.image, prompt().examples.length);
      if (name !== "step") chosen.step = nearest(before);
      render();
    }

    const prompt = () => data.prompts[data.explored[chosen.arm][chosen.prompt]];
    const frames = () => prompt().examples[chosen.image].frames;

    function nearest(step) {
      const distances = frames().map((frame) => Math.abs(frame.step - step));
      return distances.indexOf(Math.min(...distances));
    }

    function render() {
      const current = prompt();
      const example = current.examples[chosen.image];
      const frame = example.frames[chosen.step];
      const prompts = data.explored[chosen.arm].length;
      const seed = `${chosen.prompt + 1} of ${prompts}, seed ${current.seed}`;
      setSlider(root, "prompt", prompts, chosen.prompt, current.target ? `${seed}, ${current.target}` : seed);
      setSlider(root, "step", example.frames.length, chosen.step, `${frame.step} of ${current.steps}`);
      for (const label of root.querySelectorAll('[data-control="image"] label')) {
        const value = Number(label.firstElementChild.value);
        label.hidden = value >= current.examples.length;
        label.firstElementChild.checked = value === chosen.image;
      }
      const where = `image ${chosen.image + 1}, ${current.label} prompt ${current.name}, step ${frame.step}`;
      for (const panel of root.querySelectorAll(".panels figure")) {
        const image = panel.querySelector("img");
        const part = image.dataset.part;
        show(image, part in frame ? frame[part] : example[part], `${panel.querySelector("figcaption").textContent}: ${where}`);
      }
      const identity = `${current.index} ${chosen.image}`;
      if (identity !== described) describe(current, example);
      described = identity;
      root.querySelectorAll(".strip span").forEach((entry, i) => entry.classList.toggle("now", i === chosen.step));
      for (const rule of root.querySelectorAll('.losses [id$="-now"]')) {
        rule.setAttribute("transform", `translate(${frame.step * current.step_width} 0)`);
      }
      showLosses(current, frame.step);
    }

    // Redraws everything that depends on the prompt and the image, but not on the step.
    function describe(current, example) {
      root.querySelector(".time").style.setProperty("--count", example.frames.length);
      root.querySelector(".strip").replaceChildren(
        ...example.frames.map((frame, i) => {
          const entry = element("span");
          const image = element("img");
          show(image, frame.generated, "");
          entry.append(image, element("small", frame.step));
          entry.classList.toggle("stop", frame.step === current.stopped);
          entry.addEventListener("click", () => choose("step", i));
          return entry;
        }),
      );
      root.querySelector(".curve").hidden = !current.losses;
      root.querySelector(".losses").innerHTML = current.losses || "";
      root.querySelector(".words tbody").replaceChildren(
        ...current.words.map((row, i) => {
          const line = element("tr");
          const number = element("th", i + 1);
          number.scope = "row";
          line.append(number);
          for (const [word, cosine] of row) {
            const cell = element("td", `${word} `);
            cell.append(element("small", cosine));
            line.append(cell);
          }
          return line;
        }),
      );
      root.querySelector(".aims").hidden = !current.target;
      const note = root.querySelector(".aim-note");
      note.hidden = !current.target_note;
      note.textContent = current.target_note;
      root.querySelector(".aims .target").textContent = current.target || "";
      root.querySelector(".aims .row").replaceChildren(
        ...current.targets.map((number) => {
          const image = element("img");
          show(image, number, `Picture of the target ${current.target}`);
          return image;
        }),
      );
    }

    function showLosses(current, step) {
      const line = root.querySelector(".values");
      line.replaceChildren(`At step ${step}: `);
      Object.entries(current.terms).forEach(([term, entries], i) => {
        line.append(`${i ? ", " : ""}${term} `, element("b", (entries[step] ?? "not measured").replace("-", "−")));
      });
    }

    listen(root, choose);
    render();
  }

  function browse(root) {
    const chosen = { view: 0, which: data.start };
    const most = Math.max(...data.groups.map((group) => group.length));

    function render() {
      setSlider(root, "which", most, chosen.which, `${chosen.which + 1} of ${most}`);
      const number = `image ${chosen.view + 1}`;
      const first = data.prompts[data.groups[0][0]];
      const shown = first.examples[clamp(chosen.view, first.examples.length)];
      show(root.querySelector('[data-part="label"]'), shown.label, `${data.label} of ${number}`);
      show(root.querySelector('[data-part="original"]'), shown.original, `Original of ${number}`);
      for (const card of root.querySelectorAll("[data-group]")) {
        const group = data.groups[card.dataset.group];
        const prompt = data.prompts[group[clamp(chosen.which, group.length)]];
        const example = prompt.examples[clamp(chosen.view, prompt.examples.length)];
        const alt = `${number} generated by ${prompt.label} prompt ${prompt.name}`;
        show(card.querySelector('[data-part="generated"]'), example.frames[example.chosen].generated, alt);
        const own = card.querySelector('[data-part="own"]');
        own.hidden = example.original === shown.original;
        if (!own.hidden) show(own, example.original, `Original of ${alt}`);
        const words = prompt.words.filter((row) => row.length).map((row) => row[0][0]);
        card.querySelector(".of").textContent = words.join(" · ") || prompt.name;
      }
    }

    listen(root, (name, value) => {
      chosen[name] = value;
      render();
    });
    render();
  }

  const explorer = document.getElementById("explorer");
  const gallery = document.getElementById("gallery");
  if (explorer) explore(explorer);
  if (gallery) browse(gallery);
})();
