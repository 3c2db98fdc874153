const page = document.body;
const button = document.getElementById("toggle");
page.classList.add("folded");
button.hidden = false;
button.onclick = () => {
  const show = page.classList.toggle("folded") === false;
  document.querySelectorAll("details.code").forEach(part => { part.open = show; });
  button.textContent = show ? button.dataset.wordHide : button.dataset.wordShow;
  button.setAttribute("aria-pressed", show);
};
const reveal = () => {
  const wanted = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = wanted; part; part = part.parentElement) {
    if (part.tagName === "DETAILS") part.open = true;
  }
  if (wanted) wanted.scrollIntoView();
};
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll(".record details:not([open])")];
  opened.forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => opened.forEach(part => { part.open = false; }));
addEventListener("hashchange", reveal);
reveal();
