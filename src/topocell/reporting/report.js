// The page of a run or a comparison: tabs, charts, and the replay of a search.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.querySelector("main");
  const find = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  /** Width of the content of a card of a grid whose columns are at least `least` pixels wide. */
  const cardWidth = (least, inside = 28) => {
    const style = getComputedStyle(main);
    const whole = main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const columns = Math.max(1, Math.floor((whole + 16) / (Math.min(least, whole) + 16)));
    return Math.floor((whole - 16 * (columns - 1)) / columns - inside);
  };

  // --- tabs: buttons that show one section at a time; arrow keys, Home and End go from one to the next

  function tabs() {
    const sections = find("section.tab");
    if (sections.length < 2) return;
    const list = element("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the report" });
    const buttons = sections.map((section) => {
      const button = element("button", { type: "button", role: "tab", id: `tab-${section.id}`, "aria-controls": section.id }, section.querySelector("h2").textContent);
      section.setAttribute("role", "tabpanel");
      section.setAttribute("aria-labelledby", button.id);
      button.addEventListener("click", () => select(section.id));
      list.append(button);
      return button;
    });
    const select = (id, focus = false) => {
      sections.forEach((section, k) => {
        const on = section.id === id;
        section.hidden = !on;
        buttons[k].setAttribute("aria-selected", String(on));
        buttons[k].tabIndex = on ? 0 : -1;
        if (on && focus) buttons[k].focus();
      });
      history.replaceState(null, "", `#${id}`);
      hints();
    };
    list.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      select(sections[(to + buttons.length) % buttons.length].id, true);
    });
    sections[0].before(list);
    main.classList.add("tabbed");
    const named = location.hash.slice(1);
    select(sections.some((section) => section.id === named) ? named : sections[0].id);
  }

  // --- what is wider than the screen scrolls, says so, and takes the keyboard

  function hints() {
    for (const box of find(".scroll")) {
      if (!box.nextElementSibling?.classList.contains("hint")) box.after(element("p", { class: "hint" }, "⇄ wider than the screen: scroll sideways"));
      const wide = box.scrollWidth > box.clientWidth + 1;
      box.classList.toggle("overflows", wide);
      if (wide) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  // --- charts

  function charts() {
    for (const figure of find(".charts")) {
      const panels = data.figures[figure.dataset.figure] || [];
      const width = panels.length === 1 ? Math.min(cardWidth(10000), 720) : cardWidth(336);
      figure.querySelector(".panels").replaceChildren(...panels.map((panel) => panelCard(panel, width)));
    }
    for (const place of find("[data-dots]")) {
      const { rows, label } = data.dots[place.dataset.dots];
      place.replaceChildren(element("div", { class: "strip" }, dots(rows, label, Math.min(cardWidth(10000), 860))));
    }
    const place = document.getElementById("decisions");
    if (place) place.replaceChildren(...d3.groups(data.decisions, (d) => d.edges, (d) => d.measure).flatMap(([edges, groups]) => groups.map(([measure, of]) => decided(edges, measure, of))));
  }

  function decided(edges, measure, decisions) {
    const width = Math.min(cardWidth(10000), 860), title = edges ? "Edges of each node" : "Operations of each edge";
    const card = element("div", { class: "strip" }, element("h4", {}, title), element("p", { class: "quiet" }, meaning(measure)[1]), strip(decisions, width));
    const families = new Set(decisions.flatMap((d) => d.candidates.map((c) => c.family)));
    if (families.size > 1) {
      const legend = Plot.legend({ symbol: { domain: [...families].map((f) => data.families[f]), range: [...families].map((f) => SYMBOLS[f]) }, color: { domain: [...families].map((f) => data.families[f]), range: [...families].map(ink) }, stroke: "color" });
      card.append(legend);
    }
    return card;
  }

  // --- the replay

  function replay() {
    const { replay: search } = data;
    const place = document.getElementById("replay");
    if (!search || !place) return () => {};
    const slider = document.getElementById("epoch"), when = document.getElementById("when"), play = document.getElementById("play");
    slider.max = String(search.epochs.length - 1);
    slider.value = slider.max;
    place.hidden = false;
    const parts = Object.values(search.cells).map((cell) => {
      const drawing = element("div", { class: "scroll drawing" });
      const shades = `From faint to strong: ${shown(cell.least)} to ${shown(cell.most)}, the least and the largest weight of this search.`;
      const heat = element("div"), bars = element("div", { class: "bars" });
      const whole = element("div", {},
        element("figure", { class: "cell" }, element("figcaption", {}, cell.title), drawing),
        element("div", { class: "heat" }, element("h4", {}, `Weights · ${cell.title}`), heat, element("p", { class: "quiet" }, shades)));
      const choices = element("div", { class: "choices" }, element("h4", {}, `Sets of edges of each node · ${cell.title}`), bars);
      if (cell.groups.some((groups) => groups.length)) whole.append(choices);
      return { cell, drawing, heat, bars, choices, whole };
    });
    document.getElementById("replayed").replaceChildren(element("div", { class: "replayed" }, ...parts.map((part) => part.whole)));
    const parser = new DOMParser();
    const drawings = search.drawings.map((text) => document.importNode(parser.parseFromString(text, "image/svg+xml").documentElement, true));
    /** The height that the tallest drawing takes in a card, so that the page stays still while the cells change. */
    const tallest = (cell, width) => d3.max(new Set(cell.drawing.filter((n) => n !== null)), (n) => {
      const box = drawings[n].viewBox.baseVal;
      return box.height * Math.min(1, Math.max(width / box.width, 0.72));
    }) || 0;

    const show = () => {
      const n = Number(slider.value), { number, stage } = search.epochs[n];
      const words = `Epoch ${number} of ${search.last} · ${stage}`;
      when.textContent = words;
      slider.setAttribute("aria-valuetext", words);
      const two = parts.length > 1, width = two ? cardWidth(480) : Math.min(cardWidth(10000), 640);
      for (const { cell, drawing, heat, bars, choices } of parts) {
        const drawn = cell.drawing[n] === null ? "no drawing" : drawings[cell.drawing[n]].cloneNode(true);
        drawing.style.minHeight = `${Math.ceil(tallest(cell, width))}px`;
        drawing.replaceChildren(drawn);
        heat.replaceChildren(heatMap(cell, n, width));
        choices.hidden = !cell.groups[n].length;
        const columns = Math.max(1, Math.floor((width + 16) / (216 + 16)));
        const narrow = Math.floor((width - 16 * (columns - 1)) / columns);
        bars.style.gridTemplateColumns = `repeat(${columns}, ${narrow}px)`;
        bars.replaceChildren(...cell.groups[n].map((group) => element("div", {}, element("h5", {}, group.more > 0 ? `${group.title}: the most likely of ${group.more + group.choices.length}` : group.title), choiceBars(group, narrow))));
      }
      hints();
    };
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (slider.value === slider.max) slider.value = "0";
      show();
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = String(Number(slider.value) + 1);
        show();
        if (slider.value === slider.max) stop();
      }, 700);
    });
    slider.addEventListener("input", show);
    return show;
  }

  tabs();
  const show = replay();
  let drawn = 0;
  const draw = () => {
    if (main.clientWidth === drawn) return;
    drawn = main.clientWidth;
    charts();
    show();
    hints();
  };
  draw();
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(main);
})();
