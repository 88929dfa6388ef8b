// Tokens as text. The chosen token's row of attention colours what it reads, the column colours who reads it; each
// row and column is asked for when it is looked at. One question is under way at a time, so that fast hands queue none.
const READS = "0, 114, 178";
const READ_BY = "213, 94, 0";
const SIZE = { cell: 11, gap: 1 };

const numbers = (view) => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
// Weights are mostly small: the root spreads them.
const strength = (weight) => Math.sqrt(Math.min(Math.max(weight, 0), 1));

function paper(reads, readBy) {
  const [blue, orange] = [`rgba(${READS}, ${reads})`, `rgba(${READ_BY}, ${readBy})`];
  if (reads < 0.02 && readBy < 0.02) return "none";
  if (readBy < 0.02) return `linear-gradient(${blue}, ${blue})`;
  if (reads < 0.02) return `linear-gradient(${orange}, ${orange})`;
  return `linear-gradient(${blue} 0 50%, ${orange} 50% 100%)`;
}

function shown(piece) {
  const text = piece.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return text === "" ? "∅" : text;
}

export default {
  render({ model, el }) {
    el.replaceChildren();
    el.classList.add("gs-lens-widget");
    const frame = document.createElement("div");
    frame.style.cssText =
      "display:flex;gap:16px;align-items:flex-start;flex-wrap:wrap;background:#FFFFFF;color:#1A1A1A;padding:12px;" +
      "font:15px Helvetica, Arial, 'DejaVu Sans', sans-serif";
    const side = document.createElement("div");
    const map = document.createElement("canvas");
    map.className = "gs-lens-map";
    map.style.cssText = "display:block;cursor:pointer";
    const mapNote = document.createElement("div");
    mapNote.style.cssText = "font-size:12px;color:#4D4D4D;margin-top:4px;max-width:150px;line-height:1.3";
    side.append(map, mapNote);
    const main = document.createElement("div");
    main.style.cssText = "flex:1 1 420px;min-width:0";
    const text = document.createElement("div");
    text.className = "gs-lens-page";
    text.tabIndex = 0;
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-label", "Tokens; arrow keys move, Enter holds or lets go");
    text.style.cssText = "line-height:1.9;max-height:340px;overflow-y:auto;overflow-wrap:break-word;padding:3px";
    const legend = document.createElement("div");
    legend.style.cssText = "font-size:12px;color:#4D4D4D;margin-top:8px";
    main.append(text, legend);
    frame.append(side, main);
    el.append(frame);

    const stamp = Math.random().toString(36).slice(2);
    let spans = [];
    let held = false;
    let busy = false;
    let wanted = null;

    function ask(token) {
      wanted = token;
      if (busy || wanted === model.get("token")) return;
      busy = true;
      model.set("token", wanted);
      model.save_changes();
    }

    function choose(token) {
      const clamped = Math.min(Math.max(token, 0), spans.length - 1);
      ask(clamped);
      spans[clamped]?.scrollIntoView({ block: "nearest" });
    }

    function write() {
      spans = model.get("pieces").map((piece, place) => {
        const span = document.createElement("span");
        span.id = `gs-lens-${stamp}-${place}`;
        span.textContent = shown(piece);
        span.setAttribute("role", "option");
        span.dataset.place = place;
        span.style.cssText = "padding:2px 1px;border-radius:2px;white-space:pre-wrap;cursor:default";
        return span;
      });
      const children = [];
      spans.forEach((span, place) => {
        children.push(span, document.createElement("wbr"));
        if (model.get("pieces")[place].includes("\n")) children.push(document.createElement("br"));
      });
      text.replaceChildren(...children);
      held = false;
    }

    function colour() {
      const reads = numbers(model.get("reads"));
      const readBy = numbers(model.get("read_by"));
      const token = model.get("token");
      if (reads.length !== spans.length) return;
      spans.forEach((span, place) => {
        const [a, b] = [strength(reads[place]), strength(readBy[place])];
        span.style.backgroundImage = paper(a, b);
        span.style.color = Math.max(a, b) > 0.62 ? "#FFFFFF" : "#1A1A1A";
        span.style.outline = place === token ? `2px solid ${held ? "#000000" : "#8C8C8C"}` : "none";
        span.setAttribute("aria-selected", String(place === token));
        span.title = `position ${place}: read ${reads[place].toFixed(3)}, reads ${readBy[place].toFixed(3)}`;
      });
      text.setAttribute("aria-activedescendant", spans[token]?.id ?? "");
      legend.innerHTML =
        `<span style="background:rgba(${READS},.6);padding:0 8px">&nbsp;</span> what the framed token reads &nbsp; ` +
        `<span style="background:rgba(${READ_BY},.6);padding:0 8px">&nbsp;</span> what reads it &nbsp; ` +
        `(strength: square root of the weight). Click or Enter ${held ? "lets go of" : "holds"} the token.`;
    }

    function drawMap() {
      const values = numbers(model.get("grid"));
      const [layers, heads] = [model.get("layers"), model.get("heads")];
      const step = SIZE.cell + SIZE.gap;
      const ratio = globalThis.devicePixelRatio || 1;
      map.width = heads * step * ratio;
      map.height = layers.length * step * ratio;
      map.style.width = `${heads * step}px`;
      map.style.height = `${layers.length * step}px`;
      const pen = map.getContext("2d");
      pen.scale(ratio, ratio);
      const stops = model.get("colours");
      layers.forEach((layer, row) => {
        for (let head = 0; head < heads; head += 1) {
          const value = Math.min(Math.max(values[row * heads + head], 0), 1);
          pen.fillStyle = stops[Math.round(value * (stops.length - 1))];
          pen.fillRect(head * step, row * step, SIZE.cell, SIZE.cell);
        }
      });
      const row = layers.indexOf(model.get("layer"));
      const head = model.get("head");
      pen.strokeStyle = "#D55E00";
      pen.lineWidth = 2;
      if (head < 0) pen.strokeRect(1, row * step, heads * step - 2, SIZE.cell);
      else pen.strokeRect(head * step, row * step, SIZE.cell, SIZE.cell);
      map.setAttribute("role", "img");
      map.setAttribute("aria-label", "Attention to the first token, a row a layer, a column a head; sliders choose too");
      mapNote.textContent = "Attention to the first token, dark 0 to light 1. A row a layer, a column a head: click one.";
    }

    map.addEventListener("click", (event) => {
      const box = map.getBoundingClientRect();
      const step = SIZE.cell + SIZE.gap;
      const [row, head] = [event.clientY - box.top, event.clientX - box.left].map((x) => Math.floor(x / step));
      const layers = model.get("layers");
      if (row < 0 || row >= layers.length || head < 0 || head >= model.get("heads")) return;
      model.set({ layer: layers[row], head });
      model.save_changes();
    });
    const placeOf = (event) => event.target?.dataset?.place;
    text.addEventListener("pointermove", (event) => {
      if (!held && placeOf(event) !== undefined) ask(Number(placeOf(event)));
    });
    text.addEventListener("click", (event) => {
      if (placeOf(event) === undefined) return;
      const place = Number(placeOf(event));
      held = !(held && place === model.get("token"));
      if (place === model.get("token")) colour();
      else ask(place);
    });
    text.addEventListener("keydown", (event) => {
      const from = wanted ?? model.get("token");
      const moves = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: spans.length - 1 };
      const jumps = { ArrowUp: from - 10, ArrowDown: from + 10 };
      if (event.key in moves || event.key in jumps) {
        held = true;
        choose(moves[event.key] ?? jumps[event.key]);
      } else if (event.key === "Enter" || event.key === " ") {
        held = !held;
        colour();
      } else if (event.key === "Escape") {
        held = false;
        colour();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });

    function answered() {
      busy = false;
      colour();
      if (wanted !== null && wanted !== model.get("token") && wanted < spans.length) ask(wanted);
      else wanted = null;
    }

    function rewrite() {
      wanted = null;
      write();
      colour();
    }

    const listeners = { "change:pieces": rewrite, "change:answer": answered, "change:grid": drawMap };
    for (const name of ["layer", "head", "layers"]) listeners[`change:${name}`] = drawMap;
    for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
    write();
    colour();
    drawMap();
    return () => {
      for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    };
  },
};
