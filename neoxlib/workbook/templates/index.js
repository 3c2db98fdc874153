const STEP = 100;
const table = document.getElementById("runs");
if (table) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => ({ row, text: row.textContent.toLowerCase() }));
  const input = id => document.getElementById(id);
  const word = (place, name, values = {}) =>
    place.dataset[`word${name}`].replace(/\{(\w+)\}/g, (_, key) => values[key]);
  let shown = STEP;
  let order = rows.slice();

  const matching = () => {
    const words = input("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const notebook = input("notebook").value;
    const state = input("state").value;
    return order.filter(({ row, text }) =>
      (!notebook || row.dataset.notebook === notebook) &&
      (!state || row.dataset.state === state) &&
      words.every(word => text.includes(word)));
  };
  const draw = () => {
    const found = matching();
    body.replaceChildren(...found.slice(0, shown).map(({ row }) => row));
    const rest = found.length - Math.min(shown, found.length);
    input("count").textContent = word(input("count"), "Count", { shown: found.length, all: rows.length });
    input("more").hidden = !rest;
    input("more").textContent = word(input("more"), "More", { some: Math.min(STEP, rest), rest });
  };
  const restart = () => { shown = STEP; draw(); };

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.key ?? cell.textContent.trim().toLowerCase();
  };
  table.querySelectorAll("th[data-sort]").forEach(head => {
    const column = head.cellIndex;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numbers = head.dataset.sort === "number";
      const keyed = order.map(each => [key(each.row, column), each]);
      keyed.sort(([a], [b]) => numbers ? a - b : a < b ? -1 : a > b ? 1 : 0);
      if (down) keyed.reverse();
      order = keyed.map(([, each]) => each);
      restart();
    };
  });

  const quoted = text => /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  const folder = decodeURIComponent(location.pathname).replace(/[^/]*$/, "");
  const choose = () => {
    const chosen = rows.filter(({ row }) => row.querySelector("input").checked);
    input("chosen").hidden = !chosen.length;
    const two = chosen.length === 2;
    input("chosen-text").textContent = two
      ? word(input("chosen-text"), "Two")
      : word(input("chosen-text"), "Other", { some: chosen.length });
    const [b, a] = chosen.map(({ row }) => quoted(folder + row.dataset.place));
    input("command").hidden = !two;
    input("command").textContent = two
      ? `python -m neoxlib report 05_compare -p run_a ${a} -p run_b ${b}` : "";
  };
  rows.forEach(({ row }) => {
    const box = row.querySelector("input");
    box.hidden = false;
    box.onchange = choose;
  });
  document.querySelector(".filters").hidden = false;
  document.querySelector(".filters").onsubmit = event => event.preventDefault();
  for (const id of ["text", "notebook", "state"]) input(id).oninput = restart;
  input("more").onclick = () => { shown += STEP; draw(); };
  draw();
  document.body.classList.add("live");
}
