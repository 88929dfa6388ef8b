// Draws a plotly figure. plotly.js is 5 MB: it comes once a kernel, in the Library widget, and is parsed once a page.
const rest = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// A widget that is not set up within two seconds is given up by its loader, and reading the library or a first drawing
// holds the page for most of them. So each of these waits until the page has answered promptly for a while: by then the
// widgets that came meanwhile are set up. Redrawing is quick, and waits only for its turn.
const TICK = 50;

async function calm(milliseconds) {
  const end = performance.now() + 5000;
  for (let quiet = 0; quiet < milliseconds && performance.now() < end; ) {
    const before = performance.now();
    await rest(TICK);
    quiet = performance.now() - before < 2 * TICK ? quiet + TICK : 0;
  }
}

function inTurn(pause, work) {
  const before = globalThis.gatescopeTurn ?? Promise.resolve();
  const turn = before.then(pause).then(work);
  globalThis.gatescopeTurn = turn.catch(() => {});
  return turn;
}

async function load(source) {
  if (!globalThis.gatescopePlotly) await calm(400);
  globalThis.gatescopePlotly ??= new Promise((resolve, reject) => {
    // Shadowed, so that a module loader on the page does not swallow the library.
    const wrapped = `(function () { var define, module, exports;\n${source}\n}).call(window);`;
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob([wrapped], { type: "text/javascript" }));
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    document.head.append(script);
  });
  return globalThis.gatescopePlotly;
}

async function libraryOf(model) {
  const id = model.get("library").slice("IPY_MODEL_".length);
  const library = await model.widget_manager.get_model(id);
  return load(library.get("source"));
}

export default {
  render({ model, el }) {
    const place = document.createElement("div");
    place.setAttribute("aria-busy", "true");
    el.replaceChildren(place);
    el.style.width = "100%";
    let Plotly = null;

    async function draw() {
      try {
        Plotly ??= await libraryOf(model);
        const figure = JSON.parse(model.get("figure"));
        place.setAttribute("role", "figure"); // not "img": what can be focused lies inside
        place.setAttribute("aria-label", model.get("alt"));
        const pause = () => (place.data ? rest(20) : calm(3 * TICK));
        await inTurn(pause, () => Plotly.react(place, figure.data, figure.layout, { displaylogo: false }));
      } catch (error) {
        place.textContent = `This figure could not be drawn: ${error.message}. Run the cell again.`;
      }
      place.removeAttribute("aria-busy");
    }

    // A cell is drawn before it has a place on the page, and pages change their width.
    let width = 0;
    const observer = new ResizeObserver(() => {
      if (Plotly && place.isConnected && el.clientWidth && el.clientWidth !== width) {
        width = el.clientWidth;
        if (place.data) Plotly.Plots.resize(place);
      }
    });
    observer.observe(el);
    model.on("change:figure", draw);
    draw().then(() => {
      width = 0;
      observer.unobserve(el);
      observer.observe(el);
    });
    return () => {
      observer.disconnect();
      model.off("change:figure", draw);
      if (Plotly) Plotly.purge(place);
    };
  },
};
